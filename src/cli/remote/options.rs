//! The options of every command that calls a server: its address, the token and the timeout.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind as UsageErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::{ApiClient, ServerAddress, timeout};
use crate::cli::{Failure, file};
use crate::domain::state::EnvironmentScope;
use crate::domain::text::EnvironmentKey;

/// The options of every command that calls a server with a token.
#[derive(Args)]
pub(in crate::cli) struct ConnectionOptions {
    #[command(flatten)]
    address: ServerAddress,
    #[command(flatten)]
    token: TokenSource,
    /// How long one attempt of a call may take, except for streams: 500ms, 10s
    #[arg(long, value_name = "DURATION", env = "TOGGLED_TIMEOUT", default_value = "10s", value_parser = timeout)]
    timeout: Duration,
}

impl ConnectionOptions {
    /// A client, which connects with its first call.
    pub async fn connect(&self) -> Result<ApiClient, Failure> {
        let token = match &self.token {
            TokenSource::None => BearerToken::default(),
            TokenSource::Value(token, setting) => BearerToken::new((*setting).to_owned(), token)?,
            TokenSource::File(path, setting) => BearerToken::read(path, setting).await?,
        };
        ApiClient::connect(&self.address, self.timeout, token).await
    }
}

/// The option of every command that is about one environment, or about all of them.
#[derive(Args)]
pub(in crate::cli) struct EnvironmentOption {
    /// The environment, by its key; "-" for all of them. Default: the token's own; else "default" for reads, and none for changes
    // An empty value is refused: it comes from a variable that is not set.
    #[arg(long, short, value_name = "ENVIRONMENT", env = "TOGGLED_ENVIRONMENT", value_parser = environment)]
    environment: Option<EnvironmentScope>,
}

impl EnvironmentOption {
    /// What is named, if anything is.
    pub fn named(&self) -> Option<&EnvironmentScope> {
        self.environment.as_ref()
    }

    /// Names this, if nothing is named.
    pub fn set_default(&mut self, scope: Option<EnvironmentScope>) {
        self.environment = self.environment.take().or(scope);
    }

    /// What is named, as requests carry it.
    pub fn text(&self) -> Option<String> {
        self.environment.as_ref().map(EnvironmentScope::to_string)
    }
}

/// The option of every command that is about one environment.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct SingleEnvironmentOption {
    /// The environment, by its key. Default: the token's own; else "default" for reads, and none for changes
    #[arg(long, short, value_name = "ENVIRONMENT", env = "TOGGLED_ENVIRONMENT", value_parser = environment_key)]
    environment: Option<EnvironmentKey>,
}

impl SingleEnvironmentOption {
    /// What is named, as requests carry it.
    pub fn text(&self) -> Option<String> {
        self.environment.as_ref().map(EnvironmentKey::to_string)
    }
}

/// Parses the key of one environment.
pub(in crate::cli) fn environment_key(text: &str) -> Result<EnvironmentKey, String> {
    EnvironmentKey::parse(text).map_err(|rule| rule.0.to_owned())
}

fn environment(text: &str) -> Result<EnvironmentScope, String> {
    EnvironmentScope::parse(text).map_err(|rule| format!("{}, or \"-\"", rule.0))
}

/// The options that a token can be given by.
#[derive(Args)]
struct TokenOptions {
    /// The API token
    // clap must not parse it, since its error would repeat the token.
    #[arg(long, value_name = "TOKEN", env = "TOGGLED_TOKEN")]
    token: Option<String>,
    /// The file that holds the API token, instead of --token. Options override variables; TOGGLED_TOKEN overrides
    /// TOGGLED_TOKEN_FILE
    #[arg(long, value_name = "FILE", env = "TOGGLED_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

/// Where the token is taken from, with the name of the setting. Options override environment variables.
enum TokenSource {
    None,
    Value(String, &'static str),
    File(PathBuf, &'static str),
}

impl FromArgMatches for TokenSource {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let is_option = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
        let (has_token_option, has_file_option) = (is_option("token"), is_option("token_file"));
        if has_token_option && has_file_option {
            return Err(clap::Error::raw(
                UsageErrorKind::ArgumentConflict,
                "pass either --token or --token-file, not both",
            ));
        }
        let options = TokenOptions::from_arg_matches(matches)?;
        Ok(match (options.token, options.token_file) {
            (Some(token), _) if has_token_option => Self::Value(token, "--token"),
            (_, Some(path)) if has_file_option => Self::File(path, "--token-file"),
            (Some(token), _) => Self::Value(token, "TOGGLED_TOKEN"),
            (None, Some(path)) => Self::File(path, "TOGGLED_TOKEN_FILE"),
            (None, None) => Self::None,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for TokenSource {
    fn augment_args(command: Command) -> Command {
        TokenOptions::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        TokenOptions::augment_args_for_update(command)
    }
}

/// Adds the token to every call. It derives no `Debug`, so that no log can show it.
#[derive(Clone, Default)]
pub(in crate::cli) struct BearerToken {
    header: Option<MetadataValue<Ascii>>,
    /// The setting that the token was taken from; `None` without a token.
    pub(super) origin: Option<String>,
}

impl BearerToken {
    /// The token of a setting. An empty setting is no token.
    fn new(origin: String, token: &str) -> Result<Self, Failure> {
        let token = token.trim();
        if token.is_empty() {
            return Ok(Self::default());
        }
        let header = format!("Bearer {token}").parse::<MetadataValue<Ascii>>();
        let mut header = header.map_err(|_| {
            Failure::usage(format!("{origin} is not a valid token: it contains invalid characters; copy it again"))
        })?;
        header.set_sensitive(true);
        Ok(Self { header: Some(header), origin: Some(origin) })
    }

    async fn read(path: &Path, setting: &str) -> Result<Self, Failure> {
        let unusable =
            |rule: &str| Failure::usage(format!("cannot read the token file {} ({setting}): {rule}", path.display()));
        let token = tokio::fs::read_to_string(path).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => unusable("no such file; pass the path that the server printed at its first start"),
            ErrorKind::InvalidData => unusable("it is not text; pass another file"),
            _ => unusable(&file::describe(&error)),
        })?;
        if token.trim().is_empty() {
            return Err(unusable("it is empty; write the token into it, or pass another file"));
        }
        let origin = format!("{setting} {}", path.display());
        Self::new(origin, &token)
    }
}

impl Interceptor for BearerToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.header {
            request.metadata_mut().insert("authorization", header.clone());
        }
        Ok(request)
    }
}
