//! Who calls: the token, and where it came from.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::{Place, Remote, timeout};
use crate::cli::Failure;

/// What every command has that calls a server as somebody.
#[derive(Args)]
pub(in crate::cli) struct Caller {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    token: Chosen,
    /// How long one attempt of a call may take, streams apart: 500ms, 10s
    #[arg(long, value_name = "DURATION", env = "TOGGLED_TIMEOUT", default_value = "10s", value_parser = timeout)]
    timeout: Duration,
}

impl Caller {
    /// A server to call. The connection is made with the first call.
    pub async fn connect(&self) -> Result<Remote, Failure> {
        let bearer = match &self.token {
            Chosen::None => Bearer::default(),
            Chosen::Token(token, setting) => Bearer::new((*setting).to_owned(), token)?,
            Chosen::File(path, setting) => Bearer::read(path, setting).await?,
        };
        Remote::connect(&self.place, self.timeout, bearer).await
    }
}

/// What may be given. Of what is typed and what the environment says, the former counts.
#[derive(Args)]
struct Given {
    /// The token to show
    // Not parsed here: an error would repeat it. Nor shown by a derived Debug.
    #[arg(long, value_name = "TOKEN", env = "TOGGLED_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The file that holds the token
    #[arg(long, value_name = "FILE", env = "TOGGLED_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

/// What counts of it, and by which name it was given.
enum Chosen {
    None,
    Token(String, &'static str),
    File(PathBuf, &'static str),
}

impl FromArgMatches for Chosen {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let is_typed = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
        let (token_typed, file_typed) = (is_typed("token"), is_typed("token_file"));
        if token_typed && file_typed {
            return Err(clap::Error::raw(ErrorKind::ArgumentConflict, "give --token or --token-file, and not both"));
        }
        let given = Given::from_arg_matches(matches)?;
        Ok(match (given.token, given.token_file) {
            (Some(token), _) if token_typed => Self::Token(token, "--token"),
            (_, Some(path)) if file_typed => Self::File(path, "--token-file"),
            (Some(token), _) => Self::Token(token, "TOGGLED_TOKEN"),
            (None, Some(path)) => Self::File(path, "TOGGLED_TOKEN_FILE"),
            (None, None) => Self::None,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Chosen {
    fn augment_args(command: Command) -> Command {
        Given::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Given::augment_args_for_update(command)
    }
}

/// The token, in every call.
#[derive(Clone, Default)]
pub(in crate::cli) struct Bearer {
    value: Option<MetadataValue<Ascii>>,
    /// Where it came from, as a person knows it.
    pub(super) origin: Option<String>,
}

impl Bearer {
    /// None, if the setting is empty.
    fn new(origin: String, token: &str) -> Result<Self, Failure> {
        let token = token.trim();
        if token.is_empty() {
            return Ok(Self::default());
        }
        let value = format!("Bearer {token}").parse::<MetadataValue<Ascii>>();
        let mut value = value.map_err(|_| Failure::usage(format!("{origin} holds what no token does")))?;
        value.set_sensitive(true);
        Ok(Self { value: Some(value), origin: Some(origin) })
    }

    async fn read(path: &Path, setting: &str) -> Result<Self, Failure> {
        let origin = format!("{setting} {}", path.display());
        let wrong = |rule: String| Failure::usage(format!("{origin}: {rule}"));
        let token = tokio::fs::read_to_string(path).await.map_err(|error| wrong(error.to_string()))?;
        if token.trim().is_empty() {
            return Err(wrong("it is empty".to_owned()));
        }
        Self::new(origin, &token)
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(bearer) = &self.value {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        Ok(request)
    }
}
