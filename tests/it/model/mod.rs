//! Random sequences of everything that changes anything, on the real server and on a model of it: the same answers, the
//! same state, the same log.

mod reference;
mod service;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use tonic::Code;

use crate::support::{Backend, Database, Server};
use service::Service;

/// Flags, and users, that there may be: few, so that they meet.
const NAMES: usize = 3;

/// Sequences that are played.
const CASES: u32 = 24;

/// What the caller says of the revision of what is to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Nothing,
    Right,
    Wrong,
}

/// A change. Flags, users and tokens are named by numbers, entries by how many came before.
#[derive(Debug, Clone)]
pub enum Op {
    CreateFlag { flag: usize, on: bool },
    Toggle { flag: usize, expected: Expected },
    Set { flag: usize, on: bool, expected: Expected },
    Batch { items: Vec<(usize, bool)> },
    Rename { flag: usize, name: u8, expected: Expected },
    Archive { flag: usize, archived: bool, expected: Expected },
    Revert { entry: usize },
    CreateUser { user: usize },
    Grant { user: usize, permitted: bool, reactivate: bool },
    Deactivate { user: usize },
    CreateToken { user: usize },
    Revoke { token: usize },
    Trim { keep: i64 },
}

/// What a change came to: how many entries it wrote, or why it was refused.
pub type Answer = Result<usize, Refusal>;

/// The code and the reason of it.
pub type Refusal = (Code, String);

fn op() -> impl Strategy<Value = Op> {
    let (flag, user) = (0..NAMES, 0..NAMES);
    let expected = || prop_oneof![4 => Just(Expected::Nothing), 1 => Just(Expected::Right), 1 => Just(Expected::Wrong)];
    let changed = (flag.clone(), any::<bool>(), expected());
    let items = proptest::collection::vec((flag.clone(), any::<bool>()), 1..4);
    prop_oneof![
        4 => (flag.clone(), any::<bool>()).prop_map(|(flag, on)| Op::CreateFlag { flag, on }),
        4 => (flag.clone(), expected()).prop_map(|(flag, expected)| Op::Toggle { flag, expected }),
        4 => changed.clone().prop_map(|(flag, on, expected)| Op::Set { flag, on, expected }),
        2 => items.prop_map(|items| Op::Batch { items }),
        2 => (flag, 0..3u8, expected()).prop_map(|(flag, name, expected)| Op::Rename { flag, name, expected }),
        2 => changed.prop_map(|(flag, archived, expected)| Op::Archive { flag, archived, expected }),
        3 => (0..12usize).prop_map(|entry| Op::Revert { entry }),
        3 => user.clone().prop_map(|user| Op::CreateUser { user }),
        2 => (user.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(user, permitted, reactivate)| Op::Grant { user, permitted, reactivate }),
        2 => user.clone().prop_map(|user| Op::Deactivate { user }),
        2 => user.prop_map(|user| Op::CreateToken { user }),
        2 => (0..4usize).prop_map(|token| Op::Revoke { token }),
        1 => (-2..6i64).prop_map(|keep| Op::Trim { keep }),
    ]
}

async fn create(server: &Server, flag: usize) {
    server.admin().await.create(&format!("flag-{flag}")).await;
}

fn play(backend: Backend) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let database = runtime.block_on(Database::new(backend));
    let server = runtime.block_on(Server::start(&database));
    // However much is kept of the log, there is more than none.
    runtime.block_on(async { futures::future::join_all((0..6).map(|flag| create(&server, flag))).await });
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let played = runner.run(&proptest::collection::vec(op(), 1..40), |ops| {
        runtime.block_on(async {
            let mut service = Service::new(&server).await;
            let mut model = service.model().await;
            for op in &ops {
                let answer = service.apply(op, &model).await;
                prop_assert_eq!(answer, model.apply(op), "{:?}", op);
            }
            prop_assert_eq!(service.entries().await, model.entries_kept());
            prop_assert_eq!(service.flags().await, model.flags);
            prop_assert_eq!(service.users().await, model.users);
            Ok(())
        })
    });
    if let Err(error) = played {
        panic!("{error}");
    }
}

#[test]
fn every_sequence_of_changes_does_what_the_model_says_on_sqlite() {
    play(Backend::Sqlite);
}

#[test]
fn every_sequence_of_changes_does_what_the_model_says_on_postgres() {
    play(Backend::Postgres);
}
