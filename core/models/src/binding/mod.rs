//! Holds the model of `crate::agreement` to the code, in both directions at once: a walk takes steps that the model allows,
//! has the real cores take them too, and lets messages of all kinds arrive that no step asked for. Whatever a core does
//! must be a step that the model allows then; whatever the model says must happen must be done by the core; and after each
//! step every replica, every disk and the set of all messages that left must be the same in both.
//!
//! `host` is a real replica with its disk, `network` what left, `enemy` the Byzantine replica, `names` the dictionary,
//! `wants` and `observe` are the two halves of a step, `fair` what follows when nothing is lost any more. `ways` does the same for the model of the synchroniser.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use bft_core::auth::{Ed25519, Scheme, Verifier};
use bft_core::config::{Admission, ClusterConfig, Member, ProtocolParams};
use bft_core::door::Input;
use bft_core::hash::{Context, hash};
use bft_core::ids::{ClusterId, Epoch, LogPosition, RequestNo, SessionId};
use bft_core::quorum::ReplicaSet;
use bft_core::wire::canonical::{self, Tag};
use bft_core::wire::message::{Message, Status};
use bft_core::wire::request::{Body, SignedRequest, encode_request};
use bft_sim::rng::{Rng, Seed};
use bft_sim::scheme::{LedgerScheme, SignedDigests};
use stateright::Model;

use crate::agreement::{Action, Agreement, Naming, REPLICAS, State, VALUES, View};

mod enemy;
mod fair;
mod host;
mod names;
mod network;
mod observe;
mod wants;
pub mod ways;

use enemy::Enemy;
use host::{Host, WALL};
use names::{Names, core_view};
use network::Network;
use wants::Taken;

/// Requests that a walk has.
const REQUESTS: usize = 3;
/// Model and code do not say the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diverged(pub String);

/// Why a walk does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The code came to a view that the model does not have.
    BeyondTheViews,
    /// More batches than the model has room for.
    BeyondTheValues,
    /// See there.
    Diverged(Diverged),
}

impl From<Diverged> for Ended {
    fn from(diverged: Diverged) -> Self {
        Self::Diverged(diverged)
    }
}

/// What walks did, to see that they did everything.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Walks.
    pub walks: u64,
    /// Steps of the model that a core took because the walk wanted them, by kind.
    pub wanted: BTreeMap<&'static str, u64>,
    /// Steps that a core took by itself, by kind.
    pub unasked: BTreeMap<&'static str, u64>,
    /// Messages that arrived out of turn.
    pub messages: u64,
    /// Slots that replicas saw committed.
    pub committed: u64,
}

/// A walk that went wrong.
#[derive(Clone, Debug)]
pub struct Wrong {
    /// Where to find it again.
    pub seed: u64,
    /// What is wrong.
    pub why: Diverged,
    /// The steps that led there.
    pub steps: Vec<String>,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "walk {}: {} after: {}", self.seed, self.why.0, self.steps.join("; "))
    }
}

/// One walk.
pub struct Walk {
    model: Agreement,
    state: State,
    hosts: Vec<Option<Host>>,
    /// Of each host the records of the model that are not durable.
    waiting: Vec<VecDeque<LogPosition>>,
    names: Names,
    network: Network,
    enemy: Enemy,
    verifier: Verifier,
    requests: Vec<SignedRequest>,
    /// Asked for when everything goes well again.
    last_request: SignedRequest,
    rng: Rng,
    now: u64,
    steps: Vec<String>,
}

/// Walks `steps` steps from `seed`, and lets the cluster go on fairly afterwards.
pub fn walk(model: &Agreement, seed: u64, steps: usize, tally: &mut Tally) -> Result<(), Box<Wrong>> {
    let mut walk = Walk::new(model.clone(), seed).expect("a cluster of four begins");
    tally.walks += 1;
    let ended = (0..steps).try_for_each(|_| walk.step(tally)).and_then(|()| Ok(walk.go_on_fairly()?));
    match ended {
        Ok(()) | Err(Ended::BeyondTheViews | Ended::BeyondTheValues) => Ok(()),
        Err(Ended::Diverged(why)) => Err(Box::new(Wrong { seed, why, steps: walk.steps })),
    }
}

/// Four replicas, one of them the enemy.
struct Setup {
    hosts: Vec<Option<Host>>,
    names: Names,
    enemy: Enemy,
    verifier: Verifier,
    requests: Vec<SignedRequest>,
}

impl Setup {
    fn new(enemy: usize, slots: usize, last_view: View) -> Result<Self, Diverged> {
        let signed = Arc::new(SignedDigests::default());
        // Real keys: a configuration takes no others.
        let key = |seed: u8| Ed25519::new(&[seed; 32], [seed; 32]).public_key();
        let scheme = |seed| Arc::new(LedgerScheme::new(key(seed), Arc::clone(&signed)));
        let schemes: Vec<_> = (1..=REPLICAS as u8).map(scheme).collect();
        let config = cluster(&schemes);
        let verifier = Verifier::new(Arc::clone(&config), scheme(9));
        let names = Names::new(&config, slots, last_view);
        let host = |replica: usize| {
            let id = names.id(replica);
            let host = (replica != enemy).then(|| Host::new(&config, &schemes[id.index()], id));
            Ok(host.transpose()?.map(|(host, _)| host))
        };
        let hosts = (0..REPLICAS).map(host).collect::<Result<_, Diverged>>()?;
        let id = names.id(enemy);
        let enemy = Enemy::new(enemy, id, &config, &schemes[id.index()]);
        let requests = (0..=REQUESTS).map(|number| request(&config, &scheme(20 + number as u8), &verifier)).collect();
        Ok(Self { hosts, names, enemy, verifier, requests })
    }
}

impl Walk {
    fn new(model: Agreement, seed: u64) -> Result<Self, Ended> {
        let model = Agreement { naming: Naming::Given, values: VALUES as u8 - 1, ..model };
        let enemy = (0..REPLICAS).find(|replica| model.byzantine.has(*replica)).expect("one is Byzantine");
        let Setup { hosts, mut names, enemy, verifier, mut requests } =
            Setup::new(enemy, model.slots, model.last_view)?;
        let last_request = requests.pop().expect("one more than a walk has");
        for request in 0..REQUESTS - 1 {
            let body = Body::join(&requests[request..=request]);
            names.note(body.header(WALL.0), &Arc::new(body))?;
        }
        let mut walk = Self {
            state: State::default(),
            waiting: vec![VecDeque::new(); REPLICAS],
            network: Network::default(),
            rng: Seed::root(seed).rng(),
            now: 0,
            steps: Vec::new(),
            model,
            hosts,
            names,
            enemy,
            verifier,
            requests,
            last_request,
        };
        for replica in (0..REPLICAS).filter(|replica| !walk.model.byzantine.has(*replica)).collect::<Vec<_>>() {
            walk.swear_in(replica)?;
        }
        Ok(walk)
    }

    /// One step: of the model, or a message out of turn.
    fn step(&mut self, tally: &mut Tally) -> Result<(), Ended> {
        self.now += 1000;
        if self.rng.chance(600) {
            self.step_of_the_model(tally)?;
        } else {
            tally.messages += 1;
            let taken = self.arrive_something()?;
            count(&mut tally.unasked, &taken);
        }
        self.compare(tally)
    }

    /// Chooses a kind first: of some there are many more steps than of others.
    fn step_of_the_model(&mut self, tally: &mut Tally) -> Result<(), Ended> {
        let mut actions = Vec::new();
        self.model.actions(&self.state, &mut actions);
        let mut kinds: Vec<_> = actions.iter().map(Action::kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        // Whatever crashes or leaves all the time comes to nothing else.
        let is_usual = |kind: &&'static str| *kind != "crash" && *kind != "leave";
        if kinds.iter().any(is_usual) && self.rng.chance(850) {
            kinds.retain(is_usual);
        }
        let kind = self.rng.pick(&kinds);
        actions.retain(|action| action.kind() == kind);
        let wanted = self.rng.pick(&actions);
        let (surely, taken) = self.want(wanted)?;
        let place = taken.iter().position(|action| *action == wanted);
        if surely == Taken::Surely && place.is_none() {
            return Err(Diverged(format!("the model says: {wanted}; the code did {taken:?}")).into());
        }
        let asked = place.map(|place| taken[place]);
        count(&mut tally.wanted, asked.as_slice());
        let others: Vec<_> = taken.into_iter().enumerate().filter(|(at, _)| Some(*at) != place).collect();
        count(&mut tally.unasked, &others.into_iter().map(|(_, action)| action).collect::<Vec<_>>());
        Ok(())
    }

    fn arrive(&mut self, to: usize, from: usize, message: Message) -> Result<Vec<Action>, Ended> {
        let from = self.names.id(from);
        let kind = message.kind();
        let message = self.verifier.check(from, message);
        let message = message.map_err(|why| Diverged(format!("{kind:?} of {from} is refused: {why:?}")))?;
        self.input(to, Input::Message { from, message })
    }

    fn input(&mut self, to: usize, input: Input) -> Result<Vec<Action>, Ended> {
        let now = self.now;
        let out = self.host(to).step(now, input)?;
        self.observe(to, out)
    }

    fn host(&mut self, replica: usize) -> &mut Host {
        self.hosts[replica].as_mut().expect("only correct replicas are stepped")
    }
}

fn count(kinds: &mut BTreeMap<&'static str, u64>, taken: &[Action]) {
    taken.iter().for_each(|action| *kinds.entry(action.kind()).or_default() += 1);
}

/// STATUS of somebody who has left for `view` and has nothing else to say.
fn on_its_way(config: &ClusterConfig, view: View) -> Message {
    let none = vec![0; config.params().window.div_ceil(64) as usize];
    Message::Status(Status {
        epoch: config.epoch(),
        view: core_view(view),
        changing: Some(ReplicaSet::EMPTY),
        proposed: none.clone(),
        prepared: none.clone(),
        committed: none,
        ..Status::default()
    })
}

fn cluster(schemes: &[Arc<LedgerScheme>]) -> Arc<ClusterConfig> {
    let member = |scheme: &Arc<LedgerScheme>| {
        let address = "127.0.0.1:0".into();
        Member { weight: 1, public_key: scheme.public_key(), address }
    };
    let params = ProtocolParams {
        checkpoint_interval: 8,
        window: 16,
        pipeline_max: 8,
        batch_requests_max: 1,
        ..ProtocolParams::default()
    };
    let members = schemes.iter().map(member).collect();
    let config =
        ClusterConfig::new(ClusterId(hash(Context::Config, &[b"models"]).0), Epoch(0), params, Admission::Any, members);
    Arc::new(config.expect("valid"))
}

/// A Request of a client without a session: it is ordered like any other, and refused when it is executed.
fn request(config: &ClusterConfig, client: &LedgerScheme, verifier: &Verifier) -> SignedRequest {
    let cluster = config.cluster_id();
    let sign = |digest| client.sign(&canonical::signing_bytes(Tag::Request, cluster, digest));
    let operations = [b"op".as_slice()];
    let bytes =
        encode_request(client.public_key(), SessionId(1), RequestNo(1), RequestNo(0), 0, operations.into_iter(), sign);
    SignedRequest::parse(bytes, verifier.bounds()).expect("well-formed")
}
