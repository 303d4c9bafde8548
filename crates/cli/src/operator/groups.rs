//! The groups of the policy, for verbs that name people by them.

use identity::UserName;

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
    let (document, _) = policy::Document::parse("policy.hujson", text).map_err(|said| {
        let why = said.first().map(ToString::to_string).unwrap_or_default();
        Failure::failed(format!(
            "the policy, which says who {group} is, cannot be read: {why}"
        ))
    })?;
    let Some(members) = document.members_of(group) else {
        return Err(Failure::usage(format!("the policy has no {group}"))
            .hint("its groups are in `groups` of policy.hujson; push them first"));
    };
    match members.is_empty() {
        true => Err(Failure::usage(format!(
            "{group} of the policy has no members"
        ))),
        false => Ok(members.iter().cloned().collect()),
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
