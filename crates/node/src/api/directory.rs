//! Who is there: the agents that may be reached, as they change, and what one says of itself.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{AgentEntry, Agents, OwnPresence, Profile, ProfileRequest, Skill};
use axum::extract::{Path, State as Shares};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use identity::AgentName;
use tracing::info;
use wire::InstanceId;
use wire::profile::{self, ProfileError};

use super::extract::{Anyone, AsAdmin, AsAgent, Json, Query};
use super::messages::{NoFields, STREAM_HEARTBEAT};
use super::refused::{Refused, json};
use super::{Shared, admin};
use crate::agents::Agent;
use crate::view::shown_skills;

pub(super) async fn agents(
    Shares(shared): Shares<Arc<Shared>>,
    Anyone(caller): Anyone,
) -> Response {
    let asker = caller.agent().map(|agent| agent.local.name.clone());
    let agents = shared.view.directory(asker.as_ref()).await;
    json(StatusCode::OK, &Agents { agents })
}

/// The same list as server-sent events: `event: agents` at the start and when it is another.
pub(super) async fn stream(
    Shares(shared): Shares<Arc<Shared>>,
    Anyone(caller): Anyone,
    Query(NoFields {}): Query<NoFields>,
) -> Response {
    let mut stopping = shared.stopping.clone();
    let stopped = async move { stopping.changed().await };
    let agent = caller.agent().map(|agent| agent.local.clone());
    let watching = Watching {
        shared,
        asker: agent.map(|agent| (agent.name, InstanceId(agent.instance))),
        shown: None,
    };
    let lists = futures_util::stream::unfold(watching, |mut watching| async {
        let agents = watching.next().await?;
        // Every type of `api` serialises, see `json`.
        let data = serde_json::to_string(&Agents { agents }).unwrap_or_default();
        let event = Event::default().event("agents").data(data);
        Some((Ok::<_, Infallible>(event), watching))
    });
    let keep_alive = KeepAlive::new().interval(STREAM_HEARTBEAT);
    Sse::new(lists.take_until(Box::pin(stopped)))
        .keep_alive(keep_alive)
        .into_response()
}

pub(super) async fn profile(
    Shares(shared): Shares<Arc<Shared>>,
    AsAgent(agent): AsAgent,
    Json(request): Json<ProfileRequest>,
) -> Result<Response, Refused> {
    let profile = shared.set_profile(&agent.local.name, request)?;
    Ok(json(StatusCode::OK, &profile))
}

/// The operator says it: the agent itself did nothing, and is not there because of it.
pub(super) async fn describe(
    Shares(shared): Shares<Arc<Shared>>,
    AsAdmin { uid }: AsAdmin,
    Path(name): Path<String>,
    Json(request): Json<ProfileRequest>,
) -> Result<Response, Refused> {
    let name = admin::agent_name(&name)?;
    let profile = shared.set_profile(&name, request)?;
    info!(target: "crabmesh::audit", uid, agent = %name, "an agent was described");
    Ok(json(StatusCode::OK, &profile))
}

/// One follower of the list.
struct Watching {
    shared: Arc<Shared>,
    /// The life of the agent that asks: another one of its name is not to see this.
    asker: Option<(AgentName, InstanceId)>,
    /// And until when no other is.
    shown: Option<(Vec<AgentEntry>, Instant)>,
}

impl Watching {
    /// The list, once it is another than the one that was shown; `None` when the agent is gone.
    async fn next(&mut self) -> Option<Vec<AgentEntry>> {
        if let Some((_, until)) = &self.shown {
            tokio::time::sleep_until((*until).into()).await;
        }
        loop {
            // Before the list is made, so that nothing can change between the two unheard.
            let news = self.shared.view.directory_news();
            let asker = match &self.asker {
                Some((name, instance)) => {
                    let agent = self.shared.agents.named(name)?;
                    (agent.local.instance == instance.0).then_some(Some(name))?
                }
                None => None,
            };
            let agents = self.shared.view.directory(asker).await;
            let same = self
                .shown
                .as_ref()
                .is_some_and(|(shown, _)| is_same(shown, &agents));
            if !same {
                self.shown = Some((agents.clone(), Instant::now() + AT_MOST_EACH));
                return Some(agents);
            }
            // What no news tell is that a gateway has been silent for long enough.
            let _ = tokio::time::timeout(LOOK_AGAIN, news).await;
            tokio::time::sleep(SETTLE).await;
        }
    }
}

impl Shared {
    fn set_profile(&self, name: &AgentName, request: ProfileRequest) -> Result<Profile, Refused> {
        let mut agent = self.agents.named(name).ok_or_else(|| {
            Refused::unknown_agent(format!("there is no agent named {name} on this gateway"))
        })?;
        let ProfileRequest {
            description,
            skills,
            presence,
        } = request;
        if description.is_some() || skills.is_some() {
            let description = match description {
                Some(text) => Some(text),
                None => agent.profile.description().map(Into::into),
            };
            let skills = skills.unwrap_or_else(|| shown_skills(&agent.profile));
            let profile = checked(description, skills)?;
            // Most agents say the same at each start; that is no reason to write.
            if profile != *agent.profile {
                agent = self.agents.describe(name, profile)?;
            }
        }
        if let Some(presence) = presence {
            self.agents.set_away(&agent, presence == OwnPresence::Away);
        }
        Ok(Profile {
            name: agent.local.name.clone(),
            presence: self.presence(&agent),
            description: agent.profile.description().map(Into::into),
            skills: shown_skills(&agent.profile),
        })
    }

    pub(super) fn presence(&self, agent: &Agent) -> api::Presence {
        match self.agents.presence(agent) {
            wire::peer::Presence::Online => api::Presence::Online,
            wire::peer::Presence::Away => api::Presence::Away,
        }
    }
}

/// What an agent says of itself, if others can be told it. A paragraph of several lines is made one.
pub(super) fn checked(
    description: Option<String>,
    skills: Vec<Skill>,
) -> Result<profile::Profile, Refused> {
    let line = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let skill = |skill: Skill| profile::Skill {
        id: skill.id.into(),
        name: skill.name.map(|text| line(text).into()),
        description: skill.description.map(|text| line(text).into()),
    };
    let skills = skills.into_iter().map(skill).collect();
    profile::Profile::new(description.map(line).as_deref(), skills)
        .map_err(|error: ProfileError| Refused::schema(error.to_string()))
}

/// Whether nobody would call it a change: that somebody was last seen one second earlier is none.
fn is_same(a: &[AgentEntry], b: &[AgentEntry]) -> bool {
    let timeless = |entry: &AgentEntry| AgentEntry {
        last_seen_s: None,
        ..entry.clone()
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| timeless(a) == timeless(b))
}

/// What belongs together has come by then: a session that replaces another is down for a moment.
const SETTLE: Duration = Duration::from_millis(100);

/// The list is shown at most this often.
const AT_MOST_EACH: Duration = Duration::from_secs(1);

/// How late silence alone is seen.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
