//! Fan-out: wakes subscribers in waves.
//!
//! A change only marks its subscribers as due. A separate task wakes all that are due, as one wave. It wakes them in slices and yields
//! in between, so that commits and answers are not queued behind thousands of woken tasks.
//!
//! Changes during a wave wait for the next one. The pause until then grows with the cost of a wave: the time to wake its subscribers,
//! and the time to write what they send. So fan-out leaves most of the machine to changes, however many subscribers there are. A change
//! after a quiet time is sent at once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::iter;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::{FlagSelection, Position};
use crate::domain::flag::Flag;
use crate::domain::state::EnvironmentScope;
use crate::domain::text::{EnvironmentKey, FlagKey};

/// How many subscribers are woken between two yields. An answer then waits for a fraction of a millisecond.
const SLICE: usize = 32;

/// The minimum time from the beginning of a wave to the next. In a burst, each flag is sent once an interval.
pub const MIN_INTERVAL: Duration = Duration::from_millis(5);

/// How late a subscriber may be while waves are cheap enough.
const MAX_LATENESS: Duration = Duration::from_millis(250);

/// Under load, the time from the beginning of one wave to the next is this many times the cost of the first: waves take a thirtieth of
/// the time.
const INTERVAL_FACTOR: u32 = 30;
/// The least such factor, times ten: it is lowered to this when subscribers would otherwise be later than [`MAX_LATENESS`].
const MIN_INTERVAL_FACTOR_TENTHS: u32 = 32;

/// A client's connection: its clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct ClientConnection {
    subscribers: Arc<AtomicUsize>,
}

impl ClientConnection {
    /// Another number for each open connection.
    fn number(&self) -> usize {
        Arc::as_ptr(&self.subscribers).addr()
    }

    fn has_subscribers(&self) -> bool {
        self.subscribers.load(Ordering::Relaxed) > 0
    }
}

/// The time that the server has spent writing to subscribers. Writes are most of what large messages cost.
#[derive(Clone, Default)]
pub struct WriteTime(Arc<AtomicU64>);

impl WriteTime {
    /// Adds the time of a write, unless the connection has no subscribers: answers to changes must not delay waves.
    pub fn add(&self, connection: &ClientConnection, time: Duration) {
        if connection.has_subscribers() {
            self.0.fetch_add(time.as_nanos().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    fn total(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// The subscribers of one kind.
#[derive(Default)]
pub(super) struct FanOut {
    registry: Mutex<Registry>,
    /// The state that the latest wave announced.
    announced: Mutex<Position>,
    /// The least cost of waking one subscriber. Set where most of the work is done outside this server's tasks.
    cost_each: Duration,
    write_time: WriteTime,
}

/// A subscriber's connection and number. A wave wakes subscribers in this order: those of one connection follow each other, so that the
/// connection writes once for all of them.
pub(super) type SubscriberId = (usize, u64);

type Subscribers = BTreeMap<SubscriberId, Arc<Notify>>;

#[derive(Default)]
struct Registry {
    last_number: u64,
    /// Subscribers to flags of all environments. Those of the log, and of users and tokens, are here as well.
    everywhere: Topic,
    /// Subscribers to flags of one environment.
    environments: HashMap<EnvironmentKey, Topic>,
    due: Due,
    /// Whether a task sends waves.
    is_sending: bool,
    last_wave: Option<Wave>,
}

/// The subscribers to flags of the same environments.
#[derive(Default)]
struct Topic {
    /// Subscribers to all flags.
    all_flags: Subscribers,
    /// Subscribers to some flags, by the key of each.
    by_key: HashMap<FlagKey, Subscribers>,
}

impl Topic {
    fn is_empty(&self) -> bool {
        self.all_flags.is_empty() && self.by_key.is_empty()
    }

    /// Every subscriber, under the key of each flag.
    fn everyone(&self) -> impl Iterator<Item = (&SubscriberId, &Arc<Notify>)> {
        self.all_flags.iter().chain(self.by_key.values().flatten())
    }
}

impl Registry {
    fn topic(&self, scope: &EnvironmentScope) -> Option<&Topic> {
        match scope {
            EnvironmentScope::All => Some(&self.everywhere),
            EnvironmentScope::One(key) => self.environments.get(key),
        }
    }

    fn topics(&self) -> impl Iterator<Item = &Topic> {
        iter::once(&self.everywhere).chain(self.environments.values())
    }
}

/// A wave that has ended.
#[derive(Clone, Copy)]
struct Wave {
    began: Instant,
    /// What waking its subscribers took.
    cost: Duration,
    /// The write time at its beginning.
    written: Duration,
}

/// What the next wave announces, and to which subscribers.
#[derive(Default)]
struct Due {
    /// The latest state.
    position: Position,
    /// When the first of these changes was announced to this fan-out.
    since: Option<Instant>,
    /// The environments whose subscribers to all flags are due.
    scopes: HashSet<EnvironmentScope>,
    /// Changed flags that have subscribers of their own, which are due.
    keys: HashSet<(EnvironmentScope, FlagKey)>,
    /// Whether all subscribers are due, those to some flags too.
    everyone: bool,
}

impl Due {
    fn is_empty(&self) -> bool {
        !self.everyone && self.scopes.is_empty() && self.keys.is_empty()
    }
}

impl Due {
    /// Adds the subscribers of a topic to a changed flag.
    fn add(&mut self, flag: &Flag, topic: &Topic, scope: impl Fn() -> EnvironmentScope) {
        if !topic.all_flags.is_empty() {
            self.scopes.insert(scope());
        }
        if topic.by_key.contains_key(&flag.key) {
            self.keys.insert((scope(), flag.key.clone()));
        }
    }
}

impl FanOut {
    /// For subscribers that cost at least this much each time they are woken.
    pub fn new(cost_each: Duration, write_time: WriteTime) -> Arc<Self> {
        Arc::new(Self { cost_each, write_time, ..Self::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a subscriber to these flags that has this connection.
    pub fn add(&self, selection: &FlagSelection, connection: &ClientConnection) -> (SubscriberId, Arc<Notify>) {
        connection.subscribers.fetch_add(1, Ordering::Relaxed);
        let wake = Arc::new(Notify::new());
        let mut registry = self.lock();
        registry.last_number += 1;
        let id = (connection.number(), registry.last_number);
        let topic = match &selection.scope {
            EnvironmentScope::All => &mut registry.everywhere,
            EnvironmentScope::One(key) => registry.environments.entry(key.clone()).or_default(),
        };
        match &selection.keys {
            None => drop(topic.all_flags.insert(id, Arc::clone(&wake))),
            Some(keys) => {
                for key in &**keys {
                    topic.by_key.entry(key.clone()).or_default().insert(id, Arc::clone(&wake));
                }
            }
        }
        (id, wake)
    }

    pub fn remove(&self, id: SubscriberId, selection: &FlagSelection, connection: &ClientConnection) {
        connection.subscribers.fetch_sub(1, Ordering::Relaxed);
        let mut registry = self.lock();
        let topic = match &selection.scope {
            EnvironmentScope::All => Some(&mut registry.everywhere),
            EnvironmentScope::One(key) => registry.environments.get_mut(key),
        };
        let Some(topic) = topic else { return };
        match &selection.keys {
            None => drop(topic.all_flags.remove(&id)),
            Some(keys) => {
                for key in &**keys {
                    if let Some(subscribers) = topic.by_key.get_mut(key) {
                        subscribers.remove(&id);
                        if subscribers.is_empty() {
                            topic.by_key.remove(key);
                        }
                    }
                }
            }
        }
        if let EnvironmentScope::One(key) = &selection.scope
            && topic.is_empty()
        {
            registry.environments.remove(key);
        }
    }

    /// The state that the latest wave announced. Later changes come with another wave.
    pub fn announced(&self) -> Position {
        *self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notifies the subscribers of these flags, which have changed in the state at `position`.
    pub fn notify(self: &Arc<Self>, position: Position, flags: &[Arc<Flag>]) {
        let mut registry = self.lock();
        let Registry { everywhere, environments, due, .. } = &mut *registry;
        for flag in flags {
            due.add(flag, everywhere, || EnvironmentScope::All);
            if let Some(topic) = environments.get(&flag.environment) {
                due.add(flag, topic, || EnvironmentScope::One(flag.environment.clone()));
            }
        }
        self.send(registry, position);
    }

    /// Notifies all subscribers that something changed, in the state at `position`.
    pub fn notify_all(self: &Arc<Self>, position: Position) {
        let mut registry = self.lock();
        let has_subscribers = registry.topics().any(|topic| !topic.is_empty());
        registry.due.everyone |= has_subscribers;
        self.send(registry, position);
    }

    /// Begins to send waves, unless no subscriber is due or a task sends them already.
    fn send(self: &Arc<Self>, mut registry: MutexGuard<'_, Registry>, position: Position) {
        // The committer and the follower may announce their states in another order than they made them.
        registry.due.position = registry.due.position.max(position);
        if registry.due.is_empty() {
            return;
        }
        registry.due.since.get_or_insert_with(Instant::now);
        if !std::mem::replace(&mut registry.is_sending, true) {
            drop(registry);
            tokio::spawn(Arc::clone(self).send_waves());
        }
    }

    async fn send_waves(self: Arc<Self>) {
        loop {
            // The callers of the changes are answered first.
            yield_now().await;
            while let Some(next) = self.next_wave().filter(|next| *next > Instant::now()) {
                sleep_until(next).await;
            }
            let (began, written) = (Instant::now(), self.write_time.total());
            let subscribers = self.begin_wave();
            for slice in subscribers.chunks(SLICE) {
                // A subscriber that is not waiting is woken at its next wait.
                slice.iter().for_each(|wake| wake.notify_one());
                yield_now().await;
            }
            let least_cost = self.cost_each.saturating_mul(subscribers.len().try_into().unwrap_or(u32::MAX));
            let cost = began.elapsed().max(least_cost);
            let mut registry = self.lock();
            registry.last_wave = Some(Wave { began, cost, written });
            if registry.due.is_empty() {
                registry.is_sending = false;
                return;
            }
        }
    }

    /// When the next wave may begin. Under load, the last wave's cost decides, which grows while that wave is still being written. Load
    /// means that something changed during the last wave.
    fn next_wave(&self) -> Option<Instant> {
        let registry = self.lock();
        let Wave { began, cost, written } = registry.last_wave?;
        let is_loaded = registry.due.since.is_some_and(|since| since <= began + cost);
        let cost = cost.max(self.write_time.total().saturating_sub(written));
        Some(began + if is_loaded { interval(cost) } else { MIN_INTERVAL })
    }

    /// Takes the subscribers that are due, in the order of their ids.
    fn begin_wave(&self) -> Vec<Arc<Notify>> {
        let mut registry = self.lock();
        let Due { position, scopes, keys, everyone, since: _ } = std::mem::take(&mut registry.due);
        *self.announced.lock().unwrap_or_else(PoisonError::into_inner) = position;
        let groups = || {
            let all = scopes.iter().filter_map(|scope| registry.topic(scope)).map(|topic| &topic.all_flags);
            all.chain(keys.iter().filter_map(|(scope, key)| registry.topic(scope)?.by_key.get(key)))
        };
        // One group is in order, and names no subscriber twice.
        if !everyone && scopes.len() + keys.len() == 1 {
            return groups().flat_map(Subscribers::values).cloned().collect();
        }
        let every = registry.topics().filter(|_| everyone).flat_map(Topic::everyone);
        let wave: Subscribers = groups().flatten().chain(every).map(|(id, wake)| (*id, Arc::clone(wake))).collect();
        wave.into_values().collect()
    }

    /// The number of registrations: one for a subscriber to all flags, else one for each key.
    #[cfg(test)]
    pub fn registrations(&self) -> usize {
        self.lock().topics().map(|topic| topic.everyone().count()).sum()
    }
}

/// The time from the beginning of a wave that took `cost` to the next, while changes go on.
fn interval(cost: Duration) -> Duration {
    let longest = MAX_LATENESS.saturating_sub(cost).max(cost * MIN_INTERVAL_FACTOR_TENTHS / 10);
    (cost * INTERVAL_FACTOR).min(longest).max(MIN_INTERVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(revision: i64) -> Position {
        Position { generation: 0, revision }
    }

    fn flag(key: &str, revision: i64) -> [Arc<Flag>; 1] {
        [Arc::new(Flag::sample(key, revision))]
    }

    /// All flags of `default`, where sample flags are.
    fn in_default() -> FlagSelection {
        FlagSelection::all_in(EnvironmentScope::One(EnvironmentKey::default_environment().clone()))
    }

    /// Each selection is woken by changes of its own flags, and by no others.
    #[tokio::test]
    async fn wave_wakes_those_who_selected_a_changed_flag() {
        let fan_out = FanOut::new(Duration::ZERO, WriteTime::default());
        let in_one = |key: &str| EnvironmentScope::One(EnvironmentKey::parse(key).unwrap());
        let selections: Vec<_> = [EnvironmentScope::All, in_one("a"), in_one("b")]
            .into_iter()
            .flat_map(|scope| {
                let keys = [None, Some(&["x"][..]), Some(&["x", "y"]), Some(&["z"])];
                keys.map(|keys| FlagSelection {
                    scope: scope.clone(),
                    keys: keys.map(|keys| keys.iter().map(|key| FlagKey::parse(key).unwrap()).collect()),
                })
            })
            .collect();
        let connection = ClientConnection::default();
        let subscribers: Vec<_> = selections.iter().map(|selection| fan_out.add(selection, &connection)).collect();
        for changed in [&[("a", "x")][..], &[("b", "y")], &[("c", "z")], &[("a", "x"), ("b", "x")], &[("a", "w")]] {
            let flags: Vec<_> = changed.iter().map(|(at, key)| Arc::new(Flag::sample_in(at, key, 1))).collect();
            {
                let mut registry = fan_out.lock();
                registry.is_sending = true;
                drop(registry);
            }
            fan_out.notify(at(1), &flags);
            let woken = fan_out.begin_wave();
            for (selection, (_, wake)) in selections.iter().zip(&subscribers) {
                let is_selected = flags.iter().any(|flag| {
                    let keys = selection.keys.as_ref();
                    selection.scope.contains(&flag.environment) && keys.is_none_or(|keys| keys.contains(&flag.key))
                });
                let times = woken.iter().filter(|other| Arc::ptr_eq(other, wake)).count();
                assert_eq!(times, usize::from(is_selected), "{changed:?} {selection:?}");
            }
        }
        for (selection, (id, _)) in selections.iter().zip(&subscribers) {
            fan_out.remove(*id, selection, &connection);
        }
        assert_eq!((fan_out.registrations(), fan_out.lock().environments.len()), (0, 0));
    }

    #[test]
    fn interval_bounds_share_and_lateness() {
        let ms = |cost| interval(Duration::from_millis(cost)).as_millis();
        assert_eq!([0, 1, 5].map(ms), [5, 30, 150], "a thirtieth");
        assert_eq!([10, 20, 50].map(ms), [240, 230, 200], "late by 250 ms at most");
        assert_eq!([60, 100, 1_000].map(ms), [192, 320, 3_200], "less than a third");
    }

    /// A thousand subscribers, and a change each millisecond.
    #[tokio::test(start_paused = true)]
    async fn subscribers_under_load_are_late_by_250_ms_at_most() {
        const CHANGES: i64 = 5_000;
        let fan_out = FanOut::new(Duration::from_micros(50), WriteTime::default());
        // When each change happened.
        let changed = Arc::new(Mutex::new(Vec::new()));
        let mut subscribers = tokio::task::JoinSet::new();
        let connections: [ClientConnection; 7] = std::array::from_fn(|_| ClientConnection::default());
        for number in 0..1_000 {
            let (fan_out, changed) = (Arc::clone(&fan_out), Arc::clone(&changed));
            let keys = (number % 2 == 0).then(|| [FlagKey::parse("a").unwrap()].into());
            let selection = FlagSelection { keys, ..in_default() };
            let (_, wake) = fan_out.add(&selection, &connections[number % 7]);
            subscribers.spawn(async move {
                let (mut waves, mut known, mut latest) = (0, 0, Duration::ZERO);
                while known < CHANGES {
                    wake.notified().await;
                    let oldest: Instant = changed.lock().unwrap()[usize::try_from(known).unwrap()];
                    latest = latest.max(oldest.elapsed());
                    known = fan_out.announced().revision;
                    waves += 1;
                }
                (waves, latest)
            });
        }
        for revision in 1..=CHANGES {
            changed.lock().unwrap().push(Instant::now());
            fan_out.notify(at(revision), &flag("a", revision));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        while let Some(subscriber) = subscribers.join_next().await {
            let (waves, latest) = subscriber.unwrap();
            assert!(latest <= MAX_LATENESS, "{latest:?}");
            // Each costs 50 ms. A sleep may take two milliseconds.
            assert!((20..55).contains(&waves), "{waves} waves");
        }
    }

    #[tokio::test]
    async fn other_tasks_run_between_slices() {
        let fan_out = Arc::new(FanOut::default());
        let woken = Arc::new(AtomicU64::new(0));
        for _ in 0..1_000 {
            let (_, wake) = fan_out.add(&in_default(), &ClientConnection::default());
            let woken = Arc::clone(&woken);
            tokio::spawn(async move {
                wake.notified().await;
                woken.fetch_add(1, Ordering::Relaxed);
            });
        }
        fan_out.notify(at(1), &flag("a", 1));
        let mut before = 0;
        while before < 1_000 {
            yield_now().await;
            let now = woken.load(Ordering::Relaxed);
            assert!(now <= before + SLICE as u64, "{before}, then {now}");
            before = now;
        }
    }

    /// The times between waves, if the writes to this connection take 400 ms a wave. `watches` says whether it has a subscriber.
    async fn intervals_of_waves(watches: bool) -> Vec<Duration> {
        let write_time = WriteTime::default();
        let fan_out = FanOut::new(Duration::ZERO, write_time.clone());
        let (written, other) = (ClientConnection::default(), ClientConnection::default());
        let (_, wake) = fan_out.add(&in_default(), if watches { &written } else { &other });
        let mut waves = Vec::new();
        for revision in 1..10 {
            fan_out.notify(at(revision), &flag("a", revision));
            wake.notified().await;
            waves.push(Instant::now());
            // The next change comes during the wave, and the wave is written meanwhile.
            fan_out.notify(at(revision), &flag("b", revision));
            write_time.add(&written, Duration::from_millis(400));
        }
        waves.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn next_wave_waits_for_the_writes_of_the_last() {
        assert_eq!(intervals_of_waves(true).await, [Duration::from_millis(1_280); 8]);
    }

    #[tokio::test(start_paused = true)]
    async fn writes_to_other_clients_do_not_delay_waves() {
        assert_eq!(intervals_of_waves(false).await, [MIN_INTERVAL; 8]);
    }
}
