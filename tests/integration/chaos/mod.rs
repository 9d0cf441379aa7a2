//! Faults of production, each under load, each in a file of its own. What must hold is the same for all of them and
//! stands in [`Trial`]: no key goes back, no event is lost or doubled, Redis equals the database again without a
//! person, memory stays small. Only what Redis itself has lost may come back older, and twice, and is counted apart.
//!
//! A new scenario is one file with an `inject` and one word below; the soak (`tests/soak`) draws from the same list.

mod trial;

pub use trial::{Line, Report, Trial};

use std::future::Future;
use std::pin::Pin;

use crate::harness::On;

/// Something that goes wrong, and is over when it returns.
pub struct Fault {
    pub name: &'static str,
    /// Whether it can happen there.
    pub fits: fn(On) -> bool,
    pub inject: for<'a> fn(&'a mut Trial) -> Pin<Box<dyn Future<Output = ()> + 'a>>,
}

macro_rules! faults {
    (
        on_both { $($both:ident)+ }
        on_one_redis { $($single:ident)+ }
        on_a_cluster { $($cluster:ident)+ }
    ) => {
        $(mod $both;)+
        $(mod $single;)+
        $(mod $cluster;)+

        /// All of them.
        pub const FAULTS: &[Fault] = &[
            $(Fault { name: stringify!($both), fits: |_| true, inject: |trial| Box::pin($both::inject(trial)) },)+
            $(Fault {
                name: stringify!($single),
                fits: |on| on == On::Single,
                inject: |trial| Box::pin($single::inject(trial)),
            },)+
            $(Fault {
                name: stringify!($cluster),
                fits: |on| on == On::Cluster,
                inject: |trial| Box::pin($cluster::inject(trial)),
            },)+
        ];

        mod on_one_redis {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $both() {
                super::keeps_its_promises(crate::harness::On::Single, stringify!($both)).await;
            })+
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $single() {
                super::keeps_its_promises(crate::harness::On::Single, stringify!($single)).await;
            })+
        }

        mod on_a_cluster {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $both() {
                super::keeps_its_promises(crate::harness::On::Cluster, stringify!($both)).await;
            })+
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $cluster() {
                super::keeps_its_promises(crate::harness::On::Cluster, stringify!($cluster)).await;
            })+
        }
    };
}

faults! {
    on_both {
        a_row_cannot_be_written
        a_standby_is_promoted
        a_zombie_wakes_up
        applications_derive_what_is_stale
        applications_write_by_hand
        kill_9_again_and_again
        rolling_restart
        redis_comes_back_empty
        redis_is_flushed
        redis_connections_are_killed
        redis_is_cut_off
        redis_is_far
        redis_is_full
        redis_is_half_open
        redis_is_loading
        redis_is_read_only
        redis_is_slow
        redis_loads_an_older_dump
        postgres_crashes
        postgres_is_cut_off
        postgres_falls_silent
        postgres_is_slow
        walsender_is_terminated_again_and_again
        leader_is_cut_off
        resync_beside_the_stream
        slot_is_dropped
        table_leaves_the_publication
        users_come_and_go
    }
    on_one_redis {
        replica_is_promoted
    }
    on_a_cluster {
        a_lagging_replica_takes_over
        slots_in_use_move
        slots_of_records_move
        failover_is_asked_for
        master_dies
        master_freezes
        masters_come_and_go
        shard_is_away
    }
}

/// Transactions behind a fault, with the same witness.
const AFTERWARDS: u64 = 50;

async fn keeps_its_promises(on: On, name: &str) {
    let fault = FAULTS.iter().find(|fault| fault.name == name).expect("a fault of this name");
    let mut trial = Trial::start(on, 1).await;
    (fault.inject)(&mut trial).await;
    let report = trial.judge().await;
    println!("{name}: {report:?}");
    report.assert_kept();
    // What a loss or a gap excused is excused no more.
    trial.progress(AFTERWARDS).await;
    trial.end().await.assert_kept();
}
