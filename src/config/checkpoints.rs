//! The settings of checkpoints and of the verification at start.

use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;

use crate::checkpoint::SigningKey;
use crate::domain::Revision;

/// How checkpoints are signed, and how much of the log is verified at start.
#[derive(Clone, Args)]
#[command(next_help_heading = "Checkpoints")]
pub struct CheckpointOptions {
    /// The private Ed25519 key (PKCS #8, PEM) that signs checkpoints. Without it, a server on SQLite creates
    /// toggled-checkpoint.key beside the database, and a server on PostgreSQL signs no checkpoints
    // A file is the only form: its mode can be checked, and it does not leak through /proc, `docker inspect` or child
    // processes as an environment variable does. Secret stores mount files.
    #[arg(long, value_name = "FILE", env = "TOGGLED_CHECKPOINT_KEY_FILE")]
    checkpoint_key_file: Option<PathBuf>,
    /// How many revisions lie between two stored checkpoints, 1 to 1000000. Use the same value on all replicas
    // Configurable, since a log with few changes a day would wait months for a checkpoint at the default.
    #[arg(long, value_name = "REVISIONS", env = "TOGGLED_CHECKPOINT_INTERVAL", default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(i64).range(1..=1_000_000))]
    pub checkpoint_interval: Revision,
    /// Verify the whole log before serving: the time to start then grows with the log. By default only the entries from the last
    /// checkpoint on are verified, at most the last 10,000
    #[arg(long, env = "TOGGLED_VERIFY_ON_START", value_parser = BoolishValueParser::new())]
    pub verify_on_start: bool,
}

impl CheckpointOptions {
    /// The key that is configured, if one is.
    ///
    /// # Errors
    /// The option, the file and what is wrong with it, in one line.
    pub fn key(&self) -> Result<Option<SigningKey>, String> {
        let Some(path) = &self.checkpoint_key_file else { return Ok(None) };
        SigningKey::read(path)
            .map(Some)
            .map_err(|error| format!("--checkpoint-key-file (TOGGLED_CHECKPOINT_KEY_FILE) {}: {error}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        checkpoints: CheckpointOptions,
    }

    fn parse(line: &[&str]) -> Result<CheckpointOptions, String> {
        let line = Line::try_parse_from([&["toggled"], line].concat()).map_err(|error| error.to_string())?;
        Ok(line.checkpoints)
    }

    #[test]
    fn key_is_read_from_its_file() {
        assert!(parse(&[]).unwrap().key().unwrap().is_none());
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("key.pem");
        let pem = SigningKey::generate().unwrap().to_pem();
        std::fs::write(&path, &pem).unwrap();
        let line = ["--checkpoint-key-file", path.to_str().unwrap()];
        assert_eq!(parse(&line).unwrap().key().unwrap().unwrap().to_pem(), pem);
        let secret = pem.lines().nth(1).unwrap();
        std::fs::write(&path, secret).unwrap();
        let error = parse(&line).unwrap().key().unwrap_err();
        assert!(error.contains("--checkpoint-key-file") && error.contains("key.pem"), "{error}");
        assert!(!error.contains(secret), "{error}");
        let error = parse(&["--checkpoint-key-file", "/nowhere"]).unwrap().key().unwrap_err();
        assert!(error.contains("/nowhere"), "{error}");
    }

    #[test]
    fn checkpoint_interval_outside_its_limits_is_refused() {
        assert_eq!(parse(&[]).unwrap().checkpoint_interval, 1_000);
        assert_eq!(parse(&["--checkpoint-interval", "1"]).unwrap().checkpoint_interval, 1);
        for bad in ["0", "-1", "1000001", "often"] {
            let error = parse(&[&format!("--checkpoint-interval={bad}")]).err().unwrap();
            assert!(error.contains("--checkpoint-interval"), "{error}");
        }
    }
}
