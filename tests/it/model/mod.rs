//! Model-based tests: random sequences of changes run on the real server and on a model, and must give the same answers,
//! the same state and the same log. What was answered for past times meanwhile must never change, on any replica.

mod past;
mod reference;
mod service;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use tonic::Code;

use crate::support::{Backend, Database, Server};
use past::{Past, Question};
use service::Service;

/// The number of flags, and of users. Few, so that operations hit the same ones.
const NAMES: usize = 3;

/// The environments. All flags of a sequence have the same key: each is in another environment.
const ENVIRONMENTS: [&str; NAMES] = ["default", "production", "staging"];

/// The number of random sequences. Each run has others.
const CASES: u32 = 10;

/// The `expected_revision` of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Unset,
    Current,
    Other,
}

/// A change. Flags, users and tokens are identified by number, entries by their position in the log.
#[derive(Debug, Clone)]
pub enum Op {
    CreateFlag { flag: usize, on: bool },
    Toggle { flag: usize, expected: Expected },
    Set { flag: usize, on: bool, expected: Expected },
    Batch { items: Vec<(usize, bool)> },
    BatchCreate { items: Vec<(usize, bool)> },
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

/// The number of entries that a change wrote, or its error.
pub type Answer = Result<usize, Refusal>;

/// The code and the reason of an error.
pub type Refusal = (Code, String);

fn op() -> impl Strategy<Value = Op> {
    let (flag, user) = (0..NAMES, 0..NAMES);
    let expected = || prop_oneof![4 => Just(Expected::Unset), 1 => Just(Expected::Current), 1 => Just(Expected::Other)];
    let changed = (flag.clone(), any::<bool>(), expected());
    let items = || proptest::collection::vec((0..NAMES, any::<bool>()), 1..4);
    prop_oneof![
        4 => (flag.clone(), any::<bool>()).prop_map(|(flag, on)| Op::CreateFlag { flag, on }),
        4 => (flag.clone(), expected()).prop_map(|(flag, expected)| Op::Toggle { flag, expected }),
        4 => changed.clone().prop_map(|(flag, on, expected)| Op::Set { flag, on, expected }),
        2 => items().prop_map(|items| Op::Batch { items }),
        2 => items().prop_map(|items| Op::BatchCreate { items }),
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

/// Questions about the past beside some of the changes.
fn questions() -> impl Strategy<Value = Vec<Question>> {
    let question = (0..500u64, 0..2usize, 0..5usize).prop_map(|(microseconds_ago, replica, reads_before)| Question {
        microseconds_ago,
        replica,
        reads_before,
    });
    prop_oneof![2 => Just(Vec::new()), 1 => proptest::collection::vec(question, 1..8)]
}

async fn create(server: &Server, flag: usize) {
    server.admin().await.create_in(ENVIRONMENTS[0], &format!("flag-{flag}")).await;
}

fn compare_with_model(backend: Backend) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let database = runtime.block_on(Database::new(backend));
    let servers = [runtime.block_on(Server::start(&database)), runtime.block_on(Server::start(&database))];
    let server = &servers[0];
    runtime.block_on(async {
        for key in &ENVIRONMENTS[1..] {
            server.admin().await.new_environment(key).await;
        }
    });
    // The log has enough entries that a trim always keeps some.
    runtime.block_on(async { futures::future::join_all((0..6).map(|flag| create(server, flag))).await });
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let result = runner.run(&proptest::collection::vec((op(), questions()), 1..40), |ops| {
        runtime.block_on(async {
            let mut service = Service::new(server).await;
            let mut model = service.model().await;
            let mut past = Past::new(&servers, service.prefix()).await;
            for (op, questions) in &ops {
                let (answer, ()) = tokio::join!(service.apply(op, &model), past.ask(questions));
                prop_assert_eq!(answer, model.apply(op), "{:?}", op);
            }
            prop_assert_eq!(past.changed_answers().await, Vec::<String>::new());
            prop_assert_eq!(service.entries().await, model.entries_kept());
            prop_assert_eq!(service.flags().await, model.flags);
            prop_assert_eq!(service.users().await, model.users);
            Ok(())
        })
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn changes_match_the_model_on_sqlite() {
    compare_with_model(Backend::Sqlite);
}

#[test]
fn changes_match_the_model_on_postgres() {
    compare_with_model(Backend::Postgres);
}
