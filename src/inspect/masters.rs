//! The masters as they are now: which slots each owns, and whether it answers.

use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{Inspector, NoAnswer};
use crate::pipeline::quarantine::{self, Entry, State};
use crate::sink::slots::{Address, Topology};

/// How long a master may take to answer.
const ANSWER: Duration = Duration::from_secs(1);
/// How long the list of what could not be applied may take.
const LIST: Duration = Duration::from_secs(3);

/// The servers that own the keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Masters {
    /// Whether it is a cluster.
    pub cluster: bool,
    /// Whether every slot has an owner.
    pub complete: bool,
    /// By address.
    pub nodes: Vec<MasterNow>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterNow {
    /// Host name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether it answered within a second.
    pub answers: bool,
    /// First and last slot of each range; none on a single Redis.
    pub slots: Vec<(u16, u16)>,
}

impl Inspector {
    /// Asks every master whether it is there.
    pub async fn masters(&self) -> Masters {
        let topology = self.0.beside.topology();
        let (complete, masters) = match &topology {
            Topology::Single(address) => (true, vec![(address.clone(), Vec::new())]),
            Topology::Cluster { masters, complete } => {
                let each = masters.iter().map(|master| (master.address.clone(), master.ranges.clone()));
                (*complete, each.collect())
            }
        };
        let nodes = masters.into_iter().map(async |(address, slots)| {
            let answers = self.answers(&address).await;
            MasterNow { host: address.host, port: address.port, answers, slots }
        });
        Masters { cluster: topology.is_cluster(), complete, nodes: join_all(nodes).await }
    }

    async fn answers(&self, address: &Address) -> bool {
        let answer = timeout(ANSWER, self.0.beside.answers(address)).await;
        if answer.is_err() {
            self.0.beside.forget(address);
        }
        answer.unwrap_or(false)
    }

    /// What could not be applied as written and is not right yet, as Redis keeps it, newest first.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn quarantine(&self) -> Result<Vec<Entry>, NoAnswer> {
        let record = timeout(LIST, self.0.beside.quarantine()).await;
        let late = || {
            NoAnswer::Late(crate::error::Fault {
                fact: "redis did not answer in time".to_owned(),
                cure: String::new(),
            })
        };
        let record = record.map_err(|_| late())??;
        let entries = quarantine::entries(record.as_deref().unwrap_or_default());
        let open = entries.into_iter().filter(|entry| entry.state == State::Open);
        Ok(open.rev().collect())
    }
}
