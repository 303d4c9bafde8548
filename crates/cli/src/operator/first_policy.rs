//! The policy that `init` writes: small, explicit, and with tests, for people to change.

use identity::UserName;

/// The first policy of a mesh. It permits what the README's first hour does, and nothing else.
pub fn first_policy(mesh: &str, user: Option<&UserName>) -> String {
    let owner = user.map(|user| format!("\"{user}\"")).unwrap_or_default();
    let mine = user.map(|user| format!("\n    // The agents on {user}'s own gateways (`crabmesh invite --user {user}`), likewise.\n    {{\"id\": \"mine\", \"src\": [\"agent:*@{user}\"], \"dst\": [\"agent:*@{user}\", \"agent:*@tag:gateway\"], \"msg\": [\"send\", \"request\"]}},"));
    let my_test = user.map(|user| format!("\n    {{\"src\": \"agent:coder@{user}\", \"accept\": [\"agent:planner@tag:gateway:request\"]}},\n    {{\"src\": \"agent:coder@tag:gateway\", \"deny\": [\"agent:planner@{user}:send\"]}},"));
    TEMPLATE
        .replace("MESH", mesh)
        .replace("OWNER", &owner)
        .replace("/*MINE*/", &mine.unwrap_or_default())
        .replace("/*MY TEST*/", &my_test.unwrap_or_default())
}

const TEMPLATE: &str = r#"// Who may talk to whom in the mesh "MESH". Whatever no grant allows is denied.
// Check and test this file with `crabmesh policy check` and `crabmesh policy test`,
// give it to the mesh with `crabmesh policy push`.
{
  // The tags that gateways may carry, and who owns them.
  "tagOwners": {"tag:gateway": [OWNER]},

  "grants": [
    // Every agent on a gateway invited with `--tag tag:gateway` may send messages to, and ask,
    // every agent on such a gateway, its own included. An answer needs no grant.
    {"id": "gateways", "src": ["agent:*@tag:gateway"], "dst": ["agent:*@tag:gateway"], "msg": ["send", "request", "stream"]},/*MINE*/
  ],

  // What must stay true, whoever edits this file: `policy push` refuses it otherwise.
  "tests": [
    {"src": "agent:coder@tag:gateway", "accept": ["agent:planner@tag:gateway:request", "agent:planner@tag:gateway:send"]},
    {"src": "agent:coder@tag:gateway", "deny": ["agent:planner@tag:gateway:publish"]},/*MY TEST*/
  ],
}
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_policy_passes_its_own_tests_with_and_without_a_user() {
        let user: UserName = "ana@example.com".parse().expect("a user");
        for user in [None, Some(&user)] {
            let text = first_policy("home", user);
            let (document, warnings) = policy::Document::parse("policy.hujson", &text)
                .map_err(|said| format!("{said:?}"))
                .expect("no error");
            assert!(warnings.is_empty(), "{warnings:?}");
            let report = policy::Policy::run_tests(&document, &[], crate::context::now());
            assert!(report.passed(), "{:?}", report.outcomes);
            assert!(!report.outcomes.is_empty());
        }
    }
}
