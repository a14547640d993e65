//! A database and the content that it must have, in memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use toggled::domain::Revision;
use toggled::domain::access::{Credential, Directory, Permission, Permissions, Token, User};
use toggled::domain::advance::{
    Actor, Command, Decision, EnvironmentUpdate, NewEnvironment, NewFlag, NewToken, Origin, Proposal, RequestKey,
    SetStatus, Step, StoredRequest, advance,
};
use toggled::domain::audit::Entry;
use toggled::domain::environment::Environment;
use toggled::domain::filter::{Filter, Range};
use toggled::domain::flag::{Flag, Status};
use toggled::domain::state::{EnvironmentRef, FlagRef, Head, State};
use toggled::domain::text::{Description, Email, EnvironmentKey, FlagKey, Name, Reason, RequestId};
use toggled::domain::time::Timestamp;
use toggled::store::{AppendOutcome, EntryQuery, Order, Store, Writer, open};
use uuid::Uuid;

use super::raw::Raw;
use crate::support::{Backend, Database, with_timeout};

/// In 2023, with odd microseconds, so that a loss of precision shows.
const START: i64 = 1_700_000_000_123_457;

/// A database with one user, the administrator, and the same log in memory.
pub struct World {
    pub store: Arc<dyn Store>,
    pub writer: Box<dyn Writer>,
    pub raw: Raw,
    /// The clock; it advances with every step.
    pub now: Timestamp,
    /// The content that the database must have.
    pub state: State,
    pub entries: Vec<Arc<Entry>>,
    pub requests: Vec<StoredRequest>,
    /// Every head that the log had.
    pub heads: Vec<Head>,
    users: BTreeSet<Uuid>,
    tokens: BTreeSet<Uuid>,
    pub database: Database,
}

/// Everything in a state, comparable.
#[derive(Debug, PartialEq)]
struct Content {
    head: Head,
    flags: Vec<Arc<Flag>>,
    environments: Vec<Arc<Environment>>,
    users: Vec<Option<Arc<User>>>,
    tokens: Vec<Option<Arc<Token>>>,
}

impl World {
    /// A log with three entries: the creation of the administrator, of their token, and of the environment `default`.
    pub async fn new(backend: Backend) -> Self {
        let mut world = Self::empty(backend).await;
        let administrator = Command::CreateAdministrator {
            email: email("admin@localhost"),
            token_name: name("bootstrap"),
            secret_hash: [1; 32],
        };
        world.commit(&[service(administrator), service(create_environment("default"))]).await;
        world
    }

    /// A log without an entry.
    pub async fn empty(backend: Backend) -> Self {
        let database = Database::new(backend).await;
        let store = open(&database.url).unwrap();
        store.migrate_up().await.unwrap();
        let state = store.load().await.unwrap();
        Self {
            writer: store.writer(),
            raw: Raw::connect(&database).await,
            now: Timestamp::from_micros(START),
            entries: Vec::new(),
            requests: Vec::new(),
            heads: vec![*state.head()],
            users: BTreeSet::new(),
            tokens: BTreeSet::new(),
            state,
            store,
            database,
        }
    }

    /// The administrator's token.
    pub fn admin(&self) -> Uuid {
        self.state.token_by_secret(&[1; 32]).unwrap().id
    }

    /// A proposal of the administrator, with all optional fields absent.
    pub fn by_admin(&self, command: Command) -> Proposal {
        let actor = Actor::Caller { credential: Credential::Token(self.admin()), permission: Permission::ManageAccess };
        Proposal { actor, ..service(command) }
    }

    /// Decides a batch on the expected state.
    pub fn decide(&mut self, proposals: &[Proposal]) -> Step {
        self.now = Timestamp::from_micros(self.now.micros() + 1_000_003);
        let step = advance(&self.state, proposals, self.now, &mut Uuid::now_v7);
        for decision in &step.decisions {
            assert!(!matches!(decision, Decision::Rejected(_)), "{decision:?}");
        }
        step
    }

    /// Decides a batch and appends it.
    pub async fn commit(&mut self, proposals: &[Proposal]) -> Step {
        let step = self.decide(proposals);
        self.append(&step).await;
        step
    }

    /// Appends a step, and asserts that the database has the expected content.
    pub async fn append(&mut self, step: &Step) {
        assert_eq!(with_timeout("an append", self.writer.append(step)).await.unwrap(), AppendOutcome::Appended);
        self.appended(step);
        self.verify().await;
    }

    /// Applies an appended step to the expected content.
    pub fn appended(&mut self, step: &Step) {
        self.state.apply(step.head, &step.delta);
        self.entries.extend(step.entries.iter().cloned());
        self.requests.extend(step.requests.iter().cloned());
        self.users.extend(step.delta.users.iter().map(|user| user.id));
        self.tokens.extend(step.delta.tokens.iter().map(|token| token.id));
        self.heads.push(step.head);
    }

    /// Decides a batch and appends it. It does not verify the content, which would take longer with every entry.
    pub async fn extend(&mut self, proposals: &[Proposal]) {
        let step = self.decide(proposals);
        assert_eq!(with_timeout("an append", self.writer.append(&step)).await.unwrap(), AppendOutcome::Appended);
        self.appended(&step);
    }

    /// Appends a proposal again and again, until the log has this many entries.
    pub async fn lengthen(&mut self, proposal: Proposal, entries: Revision) {
        let missing = |world: &Self| usize::try_from(entries - world.state.head().revision).unwrap();
        while missing(self) > 0 {
            self.extend(&vec![proposal.clone(); missing(self).min(1_000)]).await;
        }
    }

    /// Appends a step that must not be appended, and asserts that nothing changed.
    pub async fn append_in_vain(&mut self, step: &Step) -> AppendOutcome {
        let outcome = with_timeout("an append", self.writer.append(step)).await.unwrap();
        assert_ne!(outcome, AppendOutcome::Appended);
        self.verify().await;
        outcome
    }

    /// Asserts that the database has exactly the expected content.
    pub async fn verify(&mut self) {
        let loaded = self.store.load().await.unwrap();
        assert_eq!(self.content(&loaded), self.content(&self.state));
        assert_eq!(self.store.head().await.unwrap(), *self.state.head());
        for user in self.users.iter().map(|id| self.state.user(*id).unwrap()) {
            assert_eq!(loaded.user_by_email(&user.email), Some(user));
        }
        for token in self.tokens.iter().map(|id| self.state.token(*id).unwrap()) {
            assert_eq!(loaded.token_by_secret(&token.secret_hash), Some(token));
        }
        let entries = self.read(Filter::default(), Order::OldestFirst).await;
        assert_eq!(entries.len(), self.entries.len());
        for (found, written) in entries.iter().zip(&self.entries) {
            assert_eq!(found, &**written);
        }
        let keys: Vec<_> = self.requests.iter().map(|r| (r.user_id, r.request_id.clone())).collect();
        let stored = self.store.requests(&keys).await.unwrap();
        assert_eq!(stored.len(), self.requests.len());
        assert!(self.requests.iter().all(|request| stored.contains(request)), "{stored:?} {:?}", self.requests);
        // Rows that were not asked for by name.
        for (table, count) in [
            ("environments", self.state.environment_count()),
            ("users", self.users.len()),
            ("api_tokens", self.tokens.len()),
            ("audit_logs", self.entries.len()),
            ("requests", self.requests.len()),
        ] {
            let found = self.raw.number(&format!("SELECT count(*) FROM {table}")).await;
            assert_eq!(usize::try_from(found), Ok(count), "{table}");
        }
    }

    fn content(&self, state: &State) -> Content {
        Content {
            head: *state.head(),
            flags: state.all_flags().cloned().collect(),
            environments: state.environments(None).cloned().collect(),
            users: self.users.iter().map(|id| state.user(*id).cloned()).collect(),
            tokens: self.tokens.iter().map(|id| state.token(*id).cloned()).collect(),
        }
    }

    /// All entries that pass a filter.
    pub async fn read(&self, filter: Filter, order: Order) -> Vec<Entry> {
        let query = EntryQuery { filter, range: self.all(), order, offset: 0, limit: 100_000 };
        self.store.entries(&query).await.unwrap()
    }

    /// All revisions.
    pub fn all(&self) -> Range {
        Range { first: 1, last: self.state.head().revision }
    }

    pub fn flag(&self, key: &str) -> &Arc<Flag> {
        self.state.flag(&flag(key)).unwrap()
    }

    pub fn environment(&self, key: &str) -> &Arc<Environment> {
        self.state.environment(&environment(key)).unwrap()
    }

    pub fn user(&self, address: &str) -> &Arc<User> {
        self.state.user_by_email(&email(address)).unwrap()
    }

    pub fn token(&self, secret: u8) -> &Arc<Token> {
        self.state.token_by_secret(&[secret; 32]).unwrap()
    }

    pub fn entry_at(&self, revision: Revision) -> &Arc<Entry> {
        self.entries.iter().find(|entry| entry.revision == revision).unwrap()
    }

    /// A step of one entry that no command creates: `entry`, moved to the end of the log.
    pub fn by_hand(&mut self, entry: Entry) -> Step {
        let mut step = self.decide(&[]);
        let revision = step.base.revision + 1;
        let hash = [u8::try_from(revision).unwrap(); 32];
        let entry = Entry { id: Uuid::now_v7(), revision, timestamp: self.now, created_at: self.now, hash, ..entry };
        step.head = Head { revision, hash, timestamp: self.now, ..step.base };
        step.entries = vec![Arc::new(entry)];
        step
    }
}

pub fn email(text: &str) -> Email {
    Email::parse(text).unwrap()
}

pub fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub fn flag(key: &str) -> FlagRef {
    FlagRef::Key(in_default(), FlagKey::parse(key).unwrap())
}

pub fn in_default() -> Option<EnvironmentKey> {
    Some(EnvironmentKey::default_environment().clone())
}

pub fn environment(key: &str) -> EnvironmentRef {
    EnvironmentRef::Key(EnvironmentKey::parse(key).unwrap())
}

/// A proposal of the service itself, with all optional fields absent.
pub fn service(command: Command) -> Proposal {
    let actor = Actor::Service { name: "bootstrap@localhost".into() };
    let origin = Origin { method: "test/Test".into(), peer: None, user_agent: None };
    Proposal {
        encode: |answer| format!("{answer:?}").into_bytes(),
        ..Proposal::without_request_id(actor, command, origin)
    }
}

/// The same proposal with all optional fields present.
pub fn in_full(proposal: Proposal, request: &str) -> Proposal {
    Proposal {
        reason: Some(Reason::parse("Because.").unwrap()),
        request: Some(RequestKey { id: RequestId::parse(request).unwrap(), digest: [0xd1; 32] }),
        origin: Origin {
            method: "toggled.v1.ToggleService/ToggleFeatureFlag".into(),
            peer: Some("[2001:db8::1]:50051".into()),
            user_agent: Some("grpc-rust/0.14".into()),
        },
        ..proposal
    }
}

pub fn create(key: &str) -> Command {
    create_as(key, Status::Disabled)
}

pub fn create_as(key: &str, status: Status) -> Command {
    Command::CreateFlag(NewFlag {
        environment: in_default(),
        key: FlagKey::parse(key).unwrap(),
        name: name(&format!("Flag {key}")),
        description: Description::parse("").unwrap(),
        status,
    })
}

pub fn create_in(environment: &str, key: &str) -> Command {
    let Command::CreateFlag(flag) = create(key) else { unreachable!() };
    Command::CreateFlag(NewFlag { environment: Some(EnvironmentKey::parse(environment).unwrap()), ..flag })
}

pub fn toggle_in(environment: &str, key: &str) -> Command {
    let environment = Some(EnvironmentKey::parse(environment).unwrap());
    Command::Toggle { flag: FlagRef::Key(environment, FlagKey::parse(key).unwrap()), expected_revision: None }
}

pub fn toggle(key: &str) -> Command {
    Command::Toggle { flag: flag(key), expected_revision: None }
}

pub fn rename(key: &str, new: &str) -> Command {
    Command::UpdateFlag { flag: flag(key), name: Some(name(new)), description: None, expected_revision: None }
}

pub fn archive(key: &str, archived: bool) -> Command {
    Command::SetArchived { flag: flag(key), archived, expected_revision: None }
}

pub fn set(key: &str, status: Status) -> SetStatus {
    SetStatus { flag: flag(key), status, expected_revision: None }
}

pub fn create_environment(key: &str) -> Command {
    Command::CreateEnvironment(NewEnvironment {
        key: EnvironmentKey::parse(key).unwrap(),
        name: name(&format!("Environment {key}")),
        description: Description::parse("").unwrap(),
        require_reason: false,
    })
}

pub fn update_environment(key: &str, new: &str, require_reason: bool) -> Command {
    Command::UpdateEnvironment(EnvironmentUpdate {
        environment: environment(key),
        name: Some(name(new)),
        description: Some(Description::parse(new).unwrap()),
        require_reason: Some(require_reason),
        expected_revision: None,
    })
}

pub fn archive_environment(key: &str, archived: bool) -> Command {
    Command::SetEnvironmentArchived { environment: environment(key), archived, expected_revision: None }
}

pub fn create_user(address: &str, permissions: Permissions) -> Command {
    Command::CreateUser { email: email(address), account: None, permissions }
}

pub fn create_token(user_id: Uuid, secret: u8) -> Command {
    create_token_in(None, user_id, secret)
}

pub fn create_token_in(environment: Option<EnvironmentKey>, user_id: Uuid, secret: u8) -> Command {
    Command::CreateToken(NewToken {
        user_id,
        name: name("t"),
        permissions: None,
        environment,
        expires_at: None,
        secret_hash: [secret; 32],
    })
}
