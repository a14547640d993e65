//! The known name that is nearest to an unknown one.

/// The least similarity of a suggestion, as clap has it for options. A less similar one misleads.
const MIN_SIMILARITY: f64 = 0.7;

/// The most similar of the names, if one is similar enough.
pub fn nearest<'a>(unknown: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    nearest_by(unknown, names, |name| name)
}

/// The name whose part is the most similar.
fn nearest_by<'a>(
    unknown: &str,
    names: impl IntoIterator<Item = &'a str>,
    part: impl Fn(&'a str) -> &'a str,
) -> Option<&'a str> {
    let rated = names.into_iter().map(|name| (strsim::jaro(unknown, part(name)), name));
    let most_similar = rated.max_by(|(one, _), (other, _)| one.total_cmp(other));
    most_similar.filter(|(similarity, _)| *similarity >= MIN_SIMILARITY).map(|(_, name)| name)
}

/// What an error says after an unknown name: the most similar of the names, or where to find them all. Names are compared
/// without the prefix.
pub(super) fn hint<'a>(unknown: &str, names: impl IntoIterator<Item = &'a str>, prefix: &str) -> String {
    let unknown = unknown.strip_prefix(prefix).unwrap_or(unknown);
    match nearest_by(unknown, names, |name| name.strip_prefix(prefix).unwrap_or(name)) {
        Some(name) => format!("; did you mean {name}?"),
        None => "; toggled serve --help lists the known ones".to_owned(),
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
