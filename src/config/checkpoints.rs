//! The settings of how the log proves itself.

use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;

use crate::checkpoint::SigningKey;
use crate::domain::Revision;

/// How the log proves itself.
#[derive(Clone, Args)]
pub struct Checkpoints {
    /// The private Ed25519 key (PKCS #8, PEM) that checkpoints of the log are signed with. Without it one is made on the
    /// first start beside a SQLite file, as toggled-checkpoint.key; with PostgreSQL there are no checkpoints then
    #[arg(long, value_name = "FILE", env = "TOGGLED_CHECKPOINT_KEY_FILE")]
    checkpoint_key_file: Option<PathBuf>,
    /// The same key itself, for who has it in a secret store; not together with --checkpoint-key-file. On a command line
    /// everybody on the machine could read it: set it in the environment
    // Not parsed here: an error would repeat it. So would one about what begins like a flag, as PEM does.
    #[arg(long, value_name = "PEM", env = "TOGGLED_CHECKPOINT_KEY", hide_env_values = true)]
    #[arg(allow_hyphen_values = true)]
    checkpoint_key: Option<String>,
    /// How many revisions lie between two checkpoints that are stored with the log, 1 to 1000000; the same on all servers
    #[arg(long, value_name = "REVISIONS", env = "TOGGLED_CHECKPOINT_INTERVAL", default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(i64).range(1..=1_000_000))]
    pub checkpoint_interval: Revision,
    /// Verify all of the log before serving, and not only what came after the last checkpoint or the last 10,000 entries.
    /// The start takes longer the longer the log is
    #[arg(long, env = "TOGGLED_VERIFY_ON_START", value_parser = BoolishValueParser::new())]
    pub verify_on_start: bool,
}

impl Checkpoints {
    /// The key that was given, if one was.
    ///
    /// # Errors
    /// A line for a person, without the key.
    pub fn key(&self) -> Result<Option<SigningKey>, String> {
        match (&self.checkpoint_key_file, &self.checkpoint_key) {
            (Some(_), Some(_)) => Err("--checkpoint-key-file (TOGGLED_CHECKPOINT_KEY_FILE) and --checkpoint-key \
                                       (TOGGLED_CHECKPOINT_KEY) must not be given both"
                .to_owned()),
            (Some(path), None) => SigningKey::read(path).map(Some).map_err(|error| {
                format!("--checkpoint-key-file (TOGGLED_CHECKPOINT_KEY_FILE) {}: {error}", path.display())
            }),
            (None, Some(pem)) => SigningKey::from_pem(pem.as_bytes())
                .map(Some)
                .map_err(|error| format!("--checkpoint-key (TOGGLED_CHECKPOINT_KEY): {error}")),
            (None, None) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        checkpoints: Checkpoints,
    }

    fn parse(line: &[&str]) -> Result<Checkpoints, String> {
        let line = Line::try_parse_from([&["toggled"], line].concat()).map_err(|error| error.to_string())?;
        Ok(line.checkpoints)
    }

    #[test]
    fn a_key_is_given_in_one_way_or_not_at_all() {
        let pem = SigningKey::generate().unwrap().to_pem();
        assert!(parse(&[]).unwrap().key().unwrap().is_none());
        assert_eq!(parse(&["--checkpoint-key", &pem]).unwrap().key().unwrap().unwrap().to_pem(), pem);
        let both = ["--checkpoint-key", &pem, "--checkpoint-key-file", "/nowhere"];
        let secret = pem.lines().nth(1).unwrap();
        for (line, named) in [
            (&both[..], "--checkpoint-key-file"),
            (&["--checkpoint-key-file", "/nowhere"], "/nowhere"),
            (&["--checkpoint-key", secret], "--checkpoint-key"),
        ] {
            let error = parse(line).unwrap().key().unwrap_err();
            assert!(error.contains(named) && !error.contains(secret), "{error}");
        }
    }

    #[test]
    fn checkpoints_are_neither_everywhere_nor_nowhere() {
        assert_eq!(parse(&[]).unwrap().checkpoint_interval, 1_000);
        assert_eq!(parse(&["--checkpoint-interval", "1"]).unwrap().checkpoint_interval, 1);
        for bad in ["0", "-1", "1000001", "often"] {
            let error = parse(&[&format!("--checkpoint-interval={bad}")]).err().unwrap();
            assert!(error.contains("--checkpoint-interval"), "{error}");
        }
    }
}
