//! The settings of single sign-on.

use clap::Args;

use crate::auth::jwks::KeySource;
use crate::auth::jwt::{GroupPermissions, SignOnRules};
use crate::domain::access::{MalformedPermission, Permissions, ScopedPermission};

/// Single sign-on with OpenID Connect; off unless the issuer, audience and keys are set.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Single sign-on")]
pub struct SignOnOptions {
    /// The issuer of tokens, exactly as in their iss claim. Needs --oidc-audience and --oidc-jwks
    #[arg(long, value_name = "ISSUER", env = "TOGGLED_OIDC_ISSUER")]
    oidc_issuer: Option<String>,
    /// The audience that the aud claim of tokens must contain
    #[arg(long, value_name = "AUDIENCE", env = "TOGGLED_OIDC_AUDIENCE")]
    oidc_audience: Option<String>,
    /// The issuer's public keys: an https URL (the jwks_uri of its OpenID configuration) or a file
    #[arg(long, value_name = "URL|PATH", env = "TOGGLED_OIDC_JWKS")]
    oidc_jwks: Option<String>,
    /// The claim that holds permissions or groups: its name, or a JSON pointer such as /realm_access/roles
    #[arg(long, value_name = "CLAIM", env = "TOGGLED_OIDC_PERMISSIONS_CLAIM", default_value = "permissions")]
    oidc_permissions_claim: String,
    /// The permissions of a group in that claim, such as ops=toggle_feature_flags+view_feature_flags, or * for all. Repeat
    /// it, or separate several by semicolons. Without it, the claim holds names of permissions
    #[arg(long, value_name = "GROUP=PERMISSION+...", env = "TOGGLED_OIDC_GROUP", value_delimiter = ';')]
    oidc_group: Vec<String>,
    /// The claim that holds the key of the caller's own environment, which calls are about where they name none: its name, or
    /// a JSON pointer. Without it, callers have none
    #[arg(long, value_name = "CLAIM", env = "TOGGLED_OIDC_ENVIRONMENT_CLAIM")]
    oidc_environment_claim: Option<String>,
}

impl SignOnOptions {
    /// The rules for tokens and the source of the keys; `None` without single sign-on.
    ///
    /// # Errors
    /// The option and the rule that it breaks, in one line.
    pub fn parse(&self) -> Result<Option<(SignOnRules, KeySource)>, String> {
        let groups = groups(&self.oidc_group).map_err(|rule| format!("--oidc-group (TOGGLED_OIDC_GROUP) {rule}"))?;
        let all = [
            ("--oidc-issuer (TOGGLED_OIDC_ISSUER)", &self.oidc_issuer),
            ("--oidc-audience (TOGGLED_OIDC_AUDIENCE)", &self.oidc_audience),
            ("--oidc-jwks (TOGGLED_OIDC_JWKS)", &self.oidc_jwks),
        ];
        let [Some(issuer), Some(audience), Some(jwks)] = all.map(|(_, value)| value.as_deref()) else {
            let missing = all.iter().find(|(_, value)| value.is_none()).map(|(name, _)| *name).unwrap_or_default();
            let none = all.iter().all(|(_, value)| value.is_none())
                && groups.is_none()
                && self.oidc_environment_claim.is_none();
            return if none { Ok(None) } else { Err(format!("{missing} is missing: single sign-on needs it")) };
        };
        if let Some((name, _)) = all.iter().find(|(_, value)| value.as_ref().is_some_and(String::is_empty)) {
            return Err(format!("{name} must not be empty"));
        }
        if self.oidc_permissions_claim.is_empty() {
            return Err("--oidc-permissions-claim (TOGGLED_OIDC_PERMISSIONS_CLAIM) must not be empty".to_owned());
        }
        if self.oidc_environment_claim.as_ref().is_some_and(String::is_empty) {
            return Err("--oidc-environment-claim (TOGGLED_OIDC_ENVIRONMENT_CLAIM) must not be empty".to_owned());
        }
        let source = KeySource::parse(jwks).map_err(|rule| format!("--oidc-jwks (TOGGLED_OIDC_JWKS) {rule}"))?;
        let rules = SignOnRules {
            issuer: issuer.into(),
            audience: audience.to_owned(),
            permissions_claim: self.oidc_permissions_claim.clone(),
            groups,
            environment_claim: self.oidc_environment_claim.clone(),
        };
        Ok(Some((rules, source)))
    }
}

/// The permissions of each group; `None` without groups.
fn groups(settings: &[String]) -> Result<Option<GroupPermissions>, String> {
    let mut groups = GroupPermissions::new();
    // A list in the environment may end in a semicolon.
    for setting in settings.iter().map(|setting| setting.trim()).filter(|setting| !setting.is_empty()) {
        // The last `=` splits: a group may be a distinguished name, cn=ops,ou=people.
        let parts = setting.rsplit_once('=').filter(|(group, _)| !group.is_empty());
        let (group, names) = parts.ok_or_else(|| format!("must be GROUP=PERMISSION+..., and is '{setting}'"))?;
        let allowed = if names == "*" {
            Permissions::all()
        } else {
            names.split('+').map(permission).collect::<Result<_, _>>()?
        };
        let known = groups.entry(group.to_owned()).or_default();
        *known = [std::mem::take(known), allowed].into_iter().collect();
    }
    Ok(Some(groups).filter(|groups| !groups.is_empty()))
}

fn permission(name: &str) -> Result<ScopedPermission, String> {
    ScopedPermission::parse(name).map_err(|error| match error {
        MalformedPermission::Unknown => {
            let all = Permissions::all().names().join(", ");
            format!("has an unknown permission '{name}'; use {all}, or * for all")
        }
        rule => format!("has the permission '{name}', which {rule}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        sign_on: SignOnOptions,
    }

    const NEEDED: [&str; 6] = ["--oidc-issuer", "https://id", "--oidc-audience", "us", "--oidc-jwks", "keys.json"];

    fn parse(more: &[&str]) -> Result<Option<(SignOnRules, KeySource)>, String> {
        Line::parse_from([&["toggled"], &NEEDED[..], more].concat()).sign_on.parse()
    }

    fn groups_of(setting: &str) -> GroupPermissions {
        parse(&["--oidc-group", setting]).unwrap().unwrap().0.groups.unwrap()
    }

    #[test]
    fn sign_on_needs_issuer_audience_and_keys() {
        assert!(Line::parse_from(["toggled"]).sign_on.parse().unwrap().is_none());
        let (rules, source) = parse(&[]).unwrap().unwrap();
        assert_eq!((&*rules.issuer, &*rules.audience, &*rules.permissions_claim), ("https://id", "us", "permissions"));
        assert_eq!((rules.groups, source), (None, KeySource::File("keys.json".into())));
        for missing in 0..3 {
            let mut line = vec!["toggled"];
            line.extend(NEEDED.chunks(2).enumerate().filter(|(n, _)| *n != missing).flat_map(|(_, pair)| pair));
            let error = Line::parse_from(&line).sign_on.parse().unwrap_err();
            assert!(error.starts_with(NEEDED[missing * 2]) && error.contains("missing"), "{error}");
        }
        assert!(Line::parse_from(["toggled", "--oidc-group", "a=*"]).sign_on.parse().is_err());
        assert!(Line::parse_from(["toggled", "--oidc-environment-claim", "a"]).sign_on.parse().is_err());
    }

    #[test]
    fn last_equals_sign_splits_group_from_permissions() {
        let groups = groups_of("cn=ops,ou=x=toggle_feature_flags+view_feature_flags; admins=*;");
        assert_eq!(groups.len(), 2);
        assert_eq!(groups["cn=ops,ou=x"].names(), ["toggle_feature_flags", "view_feature_flags"]);
        assert_eq!(groups["admins"], Permissions::all());
        assert_eq!(groups_of("a=manage_access;a=view_audit_logs")["a"].names(), ["manage_access", "view_audit_logs"]);
    }

    #[test]
    fn group_may_hold_permission_in_one_environment() {
        let groups = groups_of("ops=toggle_feature_flags@staging+view_feature_flags;ops=toggle_feature_flags@dev");
        let names = ["toggle_feature_flags@dev", "toggle_feature_flags@staging", "view_feature_flags"];
        assert_eq!(groups["ops"].names(), names);
        let error = parse(&["--oidc-group", "ops=manage_access@staging"]).unwrap_err();
        assert!(error.contains("'manage_access@staging', which must not name an environment"), "{error}");
    }

    #[test]
    fn wrong_sign_on_is_refused_by_option_name() {
        for bad in ["ops", "=*", "ops=", "ops=everything", "ops=*+manage_access", "ops=manage_access+"] {
            assert!(parse(&["--oidc-group", bad]).unwrap_err().starts_with("--oidc-group"), "{bad}");
        }
        for claim in ["--oidc-permissions-claim", "--oidc-environment-claim"] {
            assert!(parse(&[claim, ""]).unwrap_err().starts_with(claim));
        }
        for (setting, bad) in
            [("--oidc-jwks", "http://id/keys"), ("--oidc-jwks", ""), ("--oidc-issuer", ""), ("--oidc-audience", "")]
        {
            let line = NEEDED.chunks(2).flat_map(|pair| [pair[0], if pair[0] == setting { bad } else { pair[1] }]);
            let error = Line::parse_from(std::iter::once("toggled").chain(line)).sign_on.parse().unwrap_err();
            assert!(error.starts_with(setting), "{error}");
        }
    }
}
