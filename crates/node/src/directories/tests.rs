use wire::profile::{MAX_PROFILE, Skill};

use super::*;

#[test]
fn a_peer_is_told_all_once_and_then_what_changed_alone() {
    let (mut world, start) = (Told::default(), Instant::now());
    let mut own = Own::default();
    assert!(own.set(vec![online("ana"), online("bob")], start));

    let first = own.tell_all(&mut world, all, start);
    assert_eq!(names(&first), (vec!["ana", "bob"], vec![]));
    assert_eq!(own.tell(&mut world, all, start), None);

    let later = start + Duration::from_secs(3600);
    let away = DirectoryEntry {
        presence: Presence::Away,
        ..online("bob")
    };
    assert!(own.set(vec![online("ana"), away], later));
    let news = own.tell(&mut world, all, later).expect("news");
    assert_eq!(names(&news), (vec!["bob"], vec![]));

    assert!(own.set(vec![online("ana")], later));
    let news = own.tell(&mut world, all, later).expect("news");
    assert_eq!(names(&news), (vec![], vec!["bob"]));
    assert_eq!(own.tell(&mut world, all, later), None);
}

#[test]
fn that_time_passes_and_that_who_is_online_calls_is_no_news() {
    let start = Instant::now();
    let mut own = Own::default();
    let away = |idle_s| DirectoryEntry {
        presence: Presence::Away,
        idle_s: Some(idle_s),
        ..online("bob")
    };
    own.set(vec![online("ana"), away(10)], start);

    let later = start + Duration::from_secs(100);
    assert!(!own.set(vec![online("ana"), away(110)], later));
    assert!(
        own.set(vec![online("ana"), away(5)], later),
        "bob says that it is away, and called"
    );
}

#[test]
fn a_peer_is_told_of_those_agents_alone_that_it_may_reach() {
    let (mut told, start) = (Told::default(), Instant::now());
    let mut own = Own::default();
    own.set(vec![online("ana"), online("bob")], start);
    let only = |wanted: &'static str, rights: Rights| {
        move |name: &AgentName| match name.as_str() == wanted {
            true => rights,
            false => Rights::None,
        }
    };

    let first = own.tell_all(&mut told, only("ana", Rights::Some), start);
    assert_eq!(names(&first), (vec!["ana"], vec![]));

    // Another policy: the one may not be reached any longer, the other may.
    let news = own.tell(&mut told, only("bob", Rights::Some), start);
    let news = news.expect("news");
    assert_eq!(names(&news), (vec!["bob"], vec!["ana"]));

    let news = own.tell(&mut told, only("bob", Rights::Streams), start);
    let Some(PeerFrame::News { changed, .. }) = news else {
        panic!("no news");
    };
    assert!(changed[0].streams);
}

#[test]
fn whoever_is_in_no_session_is_dialled_for_news_alone() {
    let (mut told, start) = (Told::default(), Instant::now());
    let mut own = Own::default();
    own.set(vec![online("ana")], start);
    own.tell_all(&mut told, all, start);
    let nobody = |_: &AgentName| Rights::None;

    assert!(!own.is_news(&told, all, true) && !own.is_news(&told, all, false));
    assert!(own.is_news(&told, nobody, true), "ana is to be forgotten");
    own.set(vec![online("ana"), online("bob")], start);
    assert!(own.is_news(&told, all, false));
    let ana = |name: &AgentName| match name.as_str() {
        "ana" => Rights::Streams,
        _ => Rights::None,
    };
    assert!(
        !own.is_news(&told, ana, false),
        "bob is none of its business"
    );
    own.set(vec![], start);
    assert!(own.is_news(&told, all, false));
}

#[test]
fn what_was_told_in_pieces_is_told_whole_some_time_later_and_then_never() {
    let (mut told, start) = (Told::default(), Instant::now());
    let mut own = Own::default();
    own.tell_all(&mut told, all, start);
    let later = start + WHOLE_AGAIN + SLACK;
    assert!(!told.wants_whole(later), "an idle mesh is silent");

    own.set(vec![online("ana")], start);
    own.tell(&mut told, all, start);
    assert!(!told.wants_whole(start) && told.wants_whole(later));
    own.tell_all(&mut told, all, later);
    assert!(!told.wants_whole(later + 2 * WHOLE_AGAIN));
}

#[test]
fn what_a_gateway_told_stands_until_it_says_otherwise_or_is_gone() {
    let start = Instant::now();
    let at = |s| start + Duration::from_secs(s);
    let mut known = Known::default();
    known.handle_up(PEER, start);
    let away = DirectoryEntry {
        presence: Presence::Away,
        idle_s: Some(7),
        ..online("bob")
    };
    known.handle_directory(PEER, vec![online("ana"), away], start);
    known.handle_down(PEER, at(90));

    let seen = |reach, s| -> Vec<_> {
        let gateway = known.gateways().next().expect("kept").1;
        let agents = gateway.agents(reach, at(s));
        agents
            .map(|agent| (agent.name.to_string(), agent.idle_s))
            .collect()
    };
    let both = |ana, bob| vec![("ana".to_owned(), Some(ana)), ("bob".to_owned(), Some(bob))];

    assert_eq!(seen(Reach::Up, 1000), both(0, 1007));
    assert_eq!(seen(Reach::Down(None), 1000), both(910, 1007));
    assert_eq!(seen(Reach::Down(Some(30)), 1000), both(30, 1007));

    known.handle_news(PEER, vec![online("cyd")], &[name("ana")], at(1000));
    let gateway = known.gateways().next().expect("kept").1;
    assert_eq!(
        gateway
            .agents
            .keys()
            .map(AgentName::as_str)
            .collect::<Vec<_>>(),
        ["bob", "cyd"]
    );
    known.retain(|_| false);
    assert_eq!(known.gateways().count(), 0);
}

#[test]
fn whatever_others_tell_what_is_kept_of_it_is_bounded() {
    let start = Instant::now();
    let mut known = Known::default();
    let wordy = |n: usize| DirectoryEntry {
        profile: full(),
        ..online(&format!("a{n}"))
    };
    known.handle_directory(PEER, (0..MAX_DIRECTORY).map(wordy).collect(), start);
    known.handle_news(PEER, (300..400).map(wordy).collect(), &[], start);
    let gateway = known.gateways().next().expect("kept").1;
    assert_eq!(gateway.agents.len(), MAX_DIRECTORY);

    for node in 2..20 {
        let told = (0..MAX_DIRECTORY).map(wordy).collect();
        known.handle_directory(NodeId([node; 16]), told, start);
    }
    let kept = known
        .gateways()
        .flat_map(|(_, gateway)| gateway.agents.values());
    let text: usize = kept.map(size).sum();
    assert_eq!(text, known.text);
    let agents: usize = known
        .gateways()
        .map(|(_, gateway)| gateway.agents.len())
        .sum();
    assert!(text <= MAX_TEXT && text > MAX_TEXT - MAX_PROFILE, "{text}");
    assert_eq!(
        agents,
        19 * MAX_DIRECTORY,
        "their names are kept all the same"
    );

    // Whoever takes its words back gives the room to others.
    known.handle_directory(PEER, vec![online("ana")], start);
    known.handle_news(NodeId([19; 16]), vec![wordy(0)], &[], start);
    let last = known.gateways().last().expect("kept").1;
    assert_eq!(last.agents.values().map(size).max(), Some(full().size()));
}

fn names(frame: &PeerFrame) -> (Vec<&str>, Vec<&str>) {
    let (entries, gone): (_, &[AgentName]) = match frame {
        PeerFrame::Directory(entries) => (entries, &[]),
        PeerFrame::News { changed, gone } => (changed, gone),
        other => panic!("{other:?}"),
    };
    let entries = entries.iter().map(|entry| entry.name.as_str()).collect();
    (entries, gone.iter().map(AgentName::as_str).collect())
}

fn online(text: &str) -> DirectoryEntry {
    DirectoryEntry {
        name: name(text),
        idle_s: Some(0),
        presence: Presence::Online,
        streams: false,
        profile: Profile::default(),
    }
}

fn full() -> Profile {
    let skill = |n: usize| Skill {
        id: format!("s{n}").into(),
        name: None,
        description: Some("x".repeat(510).into()),
    };
    Profile::new(None, (0..6).map(skill).collect()).expect("within its bounds")
}

fn all(_: &AgentName) -> Rights {
    Rights::Some
}

fn name(text: &str) -> AgentName {
    text.parse().expect("a name")
}

const PEER: NodeId = NodeId([1; 16]);
