//! Reading for those who only look: what of a plan its keys do not hold, how far each node is, whether keys are there.
//! Nothing is written.

use std::sync::Arc;

use bytes::Bytes;

use super::Sink;
use super::compare::{Difference, Question};
use super::fence::{self, Fence};
use super::lanes::Trouble;
use super::node::Command;
use super::proof::StoredCheckpoint;
use super::reply::{NodeError, Reply};
use crate::balance::User;
use crate::error::{Error, Result};
use crate::keyplan::{KeyPlan, Timed};
use crate::lsn::{Lsn, Xid64};

/// What a look at the keys of one plan found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// All in all.
    pub difference: Difference,
    /// What differs; nothing where nothing does.
    pub findings: Vec<Finding>,
}

/// One key, or one field of it, that does not hold what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The key.
    pub key: Bytes,
    /// The field; `None` where it is about the whole key.
    pub field: Option<Bytes>,
    /// What it should hold; `None`: nothing.
    pub wanted: Option<Bytes>,
    /// What it holds; `None`: nothing, or what has no one text.
    pub held: Option<Bytes>,
}

/// `run` waits for a fault of Redis to pass; who only looks is told where to look.
pub fn told_where_to_look(error: Error) -> Error {
    match error {
        Error::Transient(fault) if fault.cure.is_empty() => {
            Error::transient(fault.fact, "check that redis runs, and redis.url")
        }
        error => error,
    }
}

impl Sink {
    /// Looks what of each plan its keys do not hold.
    ///
    /// # Errors
    /// A node that does not answer; what can be done about it was done, so that another try may succeed.
    pub async fn look(&mut self, plans: &[KeyPlan], timed: &Arc<Timed>) -> Result<Vec<Look>> {
        let questions: Vec<Question<'_>> = plans.iter().map(|plan| Question::new(plan, timed)).collect();
        let commands = questions.iter().flat_map(Question::commands).collect();
        let mut answers = self.answers(commands).await?.into_iter();
        let look = |question: &Question<'_>| {
            let answers: Vec<_> = answers.by_ref().take(question.len()).collect();
            let (difference, _) = question.judge(&answers);
            let equal = difference == Difference::Equal;
            Look { difference, findings: if equal { Vec::new() } else { question.explain(&answers) } }
        };
        Ok(questions.iter().map(look).collect())
    }

    /// Which of these keys are there.
    ///
    /// # Errors
    /// As [`look`](Sink::look).
    pub async fn present(&mut self, keys: &[Bytes]) -> Result<Vec<bool>> {
        let exists = |key: &Bytes| Command::new("EXISTS", vec![key.clone()]);
        let answers = self.answers(keys.iter().map(|key| (key, exists(key))).collect()).await?;
        Ok(answers.into_iter().map(|answer| answer == Ok(Reply::Int(1))).collect())
    }

    /// Of each user the transaction that was applied last; `None` where the fence tells none.
    ///
    /// # Errors
    /// As [`look`](Sink::look).
    pub async fn last_applied(&mut self, users: &[User]) -> Result<Vec<Option<Xid64>>> {
        let fences: Vec<Bytes> =
            users.iter().map(|user| fence::user_key(&user.user_type, &user.id)).collect();
        let get = |key: &Bytes| Command::new("GET", vec![key.clone()]);
        let answers = self.answers(fences.iter().map(|key| (key, get(key))).collect()).await?;
        Ok(answers.iter().map(|answer| Fence::xid(answer.as_ref().ok()?.text()?)).collect())
    }

    /// Up to where every node holds everything; `None` where one of them has no checkpoint.
    ///
    /// # Errors
    /// As [`look`](Sink::look).
    pub async fn applied(&mut self) -> Result<Option<Lsn>> {
        let mut applied: Option<Lsn> = None;
        for (address, key, _) in self.checkpoint_keys() {
            let reply = match self.lanes.ask(&address, Command::new("GET", vec![key])).await {
                Err(Trouble { error: NodeError::WrongType, .. }) => return Ok(None),
                reply => reply?,
            };
            let stored = reply.text().and_then(|text| serde_json::from_slice::<StoredCheckpoint>(text).ok());
            let Some(here) = stored.and_then(|stored| stored.applied.parse().ok()) else { return Ok(None) };
            applied = Some(applied.map_or(here, |least| least.min(here)));
        }
        Ok(applied)
    }

    async fn answers(
        &mut self,
        commands: Vec<(&Bytes, Command)>,
    ) -> Result<Vec<std::result::Result<Reply, NodeError>>> {
        match self.read_all(commands).await {
            Ok(answers) => Ok(answers),
            Err(trouble) => {
                self.lanes.recover(&trouble).await;
                Err(trouble.into())
            }
        }
    }
}
