//! The known name that is nearest to an unknown one.

/// The least similarity of a suggestion, as clap has it for options. A less similar one misleads.
const MIN_SIMILARITY: f64 = 0.7;

/// What an error says after an unknown name: the most similar of the names, or where to find them all. Names are compared
/// without the prefix.
pub(super) fn hint<'a>(unknown: &str, names: impl IntoIterator<Item = &'a str>, prefix: &str) -> String {
    let rest = |name: &'a str| name.strip_prefix(prefix).unwrap_or(name);
    let unknown = unknown.strip_prefix(prefix).unwrap_or(unknown);
    let rated = names.into_iter().map(|name| (strsim::jaro(unknown, rest(name)), name));
    match rated.max_by(|(one, _), (other, _)| one.total_cmp(other)) {
        Some((similarity, name)) if similarity >= MIN_SIMILARITY => format!("; did you mean {name}?"),
        _ => "; toggled serve --help lists the known ones".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hint_names_the_most_similar() {
        let names = ["X_LISTEN", "X_LOG", "SENTRY_DSN"];
        assert_eq!(hint("X_LISTN", names, "X_"), "; did you mean X_LISTEN?");
        assert_eq!(hint("X_SENTRY_DSN", names, "X_"), "; did you mean SENTRY_DSN?");
        assert_eq!(hint("X_", names, "X_"), "; toggled serve --help lists the known ones");
    }
}
