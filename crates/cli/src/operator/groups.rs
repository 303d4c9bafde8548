//! The groups of the policy, for verbs that name people by them.

use identity::UserName;
use jsonc_parser::ast::Value;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

use super::files::OperatorFiles;
use crate::failure::Failure;

/// The members of `group:NAME`, by the policy that this machine pushed last; by `policy.hujson`
/// where it never pushed one.
pub fn members(group: &str, files: &OperatorFiles) -> Result<Vec<UserName>, Failure> {
    let pushed = files.trust.policy().map(|bundle| bundle.text.clone());
    let text = pushed.or_else(|| files.policy_text()).unwrap_or_default();
    members_in(group, &text)
}

fn members_in(group: &str, text: &str) -> Result<Vec<UserName>, Failure> {
    // A policy that loads has each group once, and only users in it.
    policy::Document::parse("policy.hujson", text).map_err(|said| {
        let why = said.first().map(ToString::to_string).unwrap_or_default();
        Failure::failed(format!(
            "the policy, which says who {group} is, cannot be read: {why}"
        ))
    })?;
    let parsed = parse_to_ast(text, &CollectOptions::default(), &ParseOptions::default());
    let root = parsed.ok().and_then(|parsed| parsed.value);
    let members = root
        .as_ref()
        .and_then(Value::as_object)
        .and_then(|root| root.get_object("groups"))
        .and_then(|groups| groups.get_array(group));
    let Some(members) = members else {
        return Err(Failure::usage(format!("the policy has no {group}"))
            .hint("its groups are in `groups` of policy.hujson; push them first"));
    };
    let users = members.elements.iter().filter_map(Value::as_string_lit);
    let users: Vec<UserName> = users.filter_map(|user| user.value.parse().ok()).collect();
    match users.is_empty() {
        true => Err(Failure::usage(format!(
            "{group} of the policy has no members"
        ))),
        false => Ok(users),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_its_members_of_the_policy() {
        let text = r#"{
            // Who may be woken at night.
            "groups": {"group:ops": ["ana@example.com", "bob@example.com"], "group:none": []},
            "grants": [],
        }"#;
        let members = |group: &str| {
            let members = members_in(group, text);
            members.map(|users| users.iter().map(ToString::to_string).collect::<Vec<_>>())
        };

        let ops = members("group:ops").expect("there");
        assert_eq!(ops, ["ana@example.com", "bob@example.com"]);
        let said = |group: &str| members(group).expect_err("refused").to_string();
        assert!(said("group:dev").contains("has no group:dev"));
        assert!(said("group:none").contains("no members"));
        assert!(members_in("group:ops", "{ nonsense").is_err());
    }
}
