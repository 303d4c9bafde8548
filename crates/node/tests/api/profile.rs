//! Who is there and what it says of itself, over the API.

use std::time::{Duration, Instant};

use node::api::ApiConfig;
use node::state::StateDir;
use serde_json::{Value, json};

use crate::place::Place;

#[tokio::test]
async fn what_an_agent_says_of_itself_is_kept_and_shown() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let state = StateDir::create(&home.path().join("gw-a")).expect("made");
    let mut place = Place::on(home, state, ApiConfig::default()).await;
    place.add("coder").await;
    let skills = json!([{"id": "code.review", "name": "Review"}, {"id": "test"}]);

    let said = json!({"description": "Writes\n  Rust.", "skills": skills, "presence": "away"});
    let profile = place.post("coder", "/v1/profile", said).await;

    assert_eq!(profile.status, 200, "{profile:?}");
    assert_eq!(profile.body["description"], "Writes Rust.");
    assert_eq!(profile.body["skills"], skills);
    assert_eq!(profile.body["presence"], "away");
    let shown = local(&place).await;
    assert_eq!(shown["description"], "Writes Rust.");
    assert_eq!(shown["presence"], "away", "whatever it calls");

    // What is absent stays, what is empty goes.
    let said = json!({"description": "", "presence": "online"});
    let profile = place.post("coder", "/v1/profile", said).await;
    assert_eq!(profile.body["description"], Value::Null);
    assert_eq!(profile.body["skills"], skills);
    assert_eq!(profile.body["presence"], "online");
    let file = place.state.read("agents.json").expect("readable");
    let file = String::from_utf8(file.expect("there")).expect("JSON");
    assert!(
        file.contains("code.review") && !file.contains("away"),
        "{file}"
    );
}

#[tokio::test]
async fn what_others_cannot_be_told_is_refused_and_changes_nothing() {
    let mut place = Place::open().await;
    place.add("coder").await;
    let skill = |id: &str| json!({"id": id});
    let many: Vec<Value> = (0..33).map(|n| skill(&format!("s{n}"))).collect();
    let wordy: Vec<Value> = (0..7)
        .map(|n| json!({"id": format!("s{n}"), "description": "x".repeat(500)}))
        .collect();
    for (said, why) in [
        (json!({"description": "\u{1b}[2J"}), "a description holds"),
        (
            json!({"description": "x".repeat(1025)}),
            "at most 1024 bytes",
        ),
        (json!({"skills": [skill("a b")]}), "a skill's id"),
        (json!({"skills": [skill("a"), skill("a")]}), "twice"),
        (json!({"skills": many}), "at most 32 skills"),
        (json!({"skills": wordy}), "all together"),
        (
            json!({"skills": [{"id": "a", "colour": "green"}]}),
            "colour",
        ),
        (json!({"presence": "offline"}), "offline"),
        (json!({"colour": "green"}), "colour"),
    ] {
        let refused = place.post("coder", "/v1/profile", said).await;
        assert_eq!((refused.status, refused.code()), (400, "schema"));
        assert!(refused.text.contains(why), "{why}: {}", refused.text);
    }
    let shown = local(&place).await;
    assert_eq!(
        (&shown["description"], &shown["skills"]),
        (&Value::Null, &json!([]))
    );
}

#[tokio::test]
async fn an_operator_describes_an_agent_that_is_not_there_because_of_it() {
    let mut place = Place::open().await;
    place.add("coder").await;
    let admin = place.admin();
    let describe = |name: &'static str| {
        let path = format!("/v1/admin/agents/{name}/profile");
        let (place, admin) = (&place, &admin);
        async move {
            place
                .call(admin, "POST", &path, r#"{"description": "Writes Rust."}"#)
                .await
        }
    };

    let profile = describe("coder").await;

    assert_eq!(profile.body["description"], "Writes Rust.");
    assert_eq!(profile.body["presence"], "away", "it never called");
    assert_eq!(describe("nobody").await.code(), "unknown_agent");
}

#[tokio::test]
async fn an_agent_is_there_while_it_follows_or_calls() {
    let mut place = Place::open().await;
    place.add("coder").await;
    assert_eq!(local(&place).await["presence"], "away");

    let follower = place.follow("coder").await;
    assert_eq!(local(&place).await["presence"], "online");
    assert_eq!(local(&place).await["idle_s"], 0);
    drop(follower);
    assert_eq!(local(&place).await["presence"], "online", "for a minute");
}

#[tokio::test]
async fn a_watcher_is_shown_the_list_at_the_start_and_each_change_once_a_second_at_most() {
    let mut place = Place::open().await;
    place.add("planner").await;
    let mut watch = place.watch("planner").await;
    assert_eq!(watch.next().await["agents"][0]["presence"], "away");

    let begun = Instant::now();
    for n in 0..20 {
        place.set_agents(|agents| {
            agents[0].last_seen_s = Some(n);
            agents[0].description = Some(format!("version {n}"));
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (mut lists, mut last) = (0, Value::Null);
    while last != "version 19" {
        last = watch.next().await["agents"][0]["description"].clone();
        lists += 1;
    }
    assert!(
        begun.elapsed() >= Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    assert!(lists <= 2, "{lists}");

    // Time alone is no change.
    place.set_agents(|agents| agents[0].last_seen_s = Some(1000));
    let more = tokio::time::timeout(Duration::from_millis(1500), watch.next()).await;
    assert!(more.is_err(), "{more:?}");

    let admin = place.admin();
    place
        .call(&admin, "DELETE", "/v1/admin/agents/planner", "")
        .await;
    place.set_agents(|agents| agents.clear());
    assert!(watch.is_over().await, "whoever is removed sees no more");
}

async fn local(place: &Place) -> Value {
    let shown = place
        .call(&place.admin(), "GET", "/v1/admin/agents/coder", "")
        .await;
    assert_eq!(shown.status, 200, "{shown:?}");
    shown.body
}
