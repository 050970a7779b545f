//! The certificate manager, on a clock that the test turns.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use mesh::Identity;
use process::certs::{AskError, Authority, CertManager, GrpcAuthority, Issued, Question};
use process::clock::{Clock, SystemClock};
use process::handover::{pack, unpack};
use process::tasks::Tasks;
use tokio::sync::watch;

use super::ca::{Ca, Validity, lasting};
use super::server::{SOON, Site, soon};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// A clock that stands still until it is turned.
#[derive(Clone)]
struct TurnedClock {
    now: watch::Sender<SystemTime>,
}

impl TurnedClock {
    fn new() -> Self {
        // 2026-01-01.
        Self {
            now: watch::Sender::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600)),
        }
    }

    /// Turns it on by `step` and lets the tasks run until they wait again.
    async fn turn(&self, step: Duration) {
        self.now.send_modify(|now| *now += step);
        // The runtime has one thread: each yield is a turn for every task that can run.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
}

impl Clock for TurnedClock {
    fn now(&self) -> SystemTime {
        *self.now.borrow()
    }

    fn sleep_until(&self, at: SystemTime) -> BoxFuture<'static, ()> {
        let mut now = self.now.subscribe();
        Box::pin(async move {
            if now.wait_for(|now| *now >= at).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

/// How the next question is answered.
type Script = Box<dyn Fn(&Ca, &Question, SystemTime) -> Vec<String> + Send>;

/// An authority in this process: answers as scripted, else well.
struct Scripted {
    clock: TurnedClock,
    root: Ca,
    scripts: Mutex<VecDeque<Script>>,
    /// Whether nobody answers.
    is_deaf: Mutex<bool>,
    asked: Mutex<Vec<(Identity, SystemTime)>>,
}

impl Scripted {
    fn answer(&self, question: &Question) -> Vec<String> {
        let now = self.clock.now();
        self.asked
            .lock()
            .unwrap()
            .push((question.identity.clone(), now));
        let script = self.scripts.lock().unwrap().pop_front();
        match script {
            Some(script) => script(&self.root, question, now),
            None => good(&self.root, question, now),
        }
    }

    fn questions(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

impl Authority for Scripted {
    fn sign(&self, question: Question) -> BoxFuture<'_, Result<Vec<String>, AskError>> {
        Box::pin(async move {
            let answer = self.answer(&question);
            if *self.is_deaf.lock().unwrap() {
                return Err(AskError::TimedOut(DAY));
            }
            Ok(answer)
        })
    }
}

fn good(root: &Ca, question: &Question, now: SystemTime) -> Vec<String> {
    let validity = lasting(now, question.ttl.as_secs());
    let leaf = root.sign(&question.csr_pem, &question.identity.to_string(), validity);
    vec![leaf, root.root_pem()]
}

struct World {
    tasks: Tasks,
    clock: TurnedClock,
    authority: Arc<Scripted>,
    manager: CertManager,
}

impl World {
    fn new(scripts: impl IntoIterator<Item = Script>) -> Self {
        let tasks = Tasks::new();
        let clock = TurnedClock::new();
        let authority = Arc::new(Scripted {
            clock: clock.clone(),
            root: Ca::new("mesh"),
            scripts: Mutex::new(scripts.into_iter().collect()),
            is_deaf: Mutex::new(false),
            asked: Mutex::default(),
        });
        let manager = CertManager::start(&tasks, authority.clone(), Arc::new(clock.clone()), DAY);
        Self {
            tasks,
            clock,
            authority,
            manager,
        }
    }

    async fn certificate(&self) -> Arc<Issued> {
        self.manager.certificate(&web(), SOON).await.unwrap()
    }

    /// The reason of the refusal of the first answer, and then the good one of the retry.
    async fn refused_then_good(&self) -> String {
        self.manager.want(&web()).unwrap();
        self.clock.turn(Duration::ZERO).await;
        let reason = self
            .manager
            .last_error(&web())
            .expect("the answer was taken");
        assert!(self.manager.current(&web()).is_none());
        self.clock.turn(Duration::from_secs(1)).await;
        assert!(
            self.manager.current(&web()).is_some(),
            "{:?}",
            self.manager.status()
        );
        assert_eq!(self.manager.last_error(&web()), None);
        reason
    }
}

fn web() -> Identity {
    Identity::new("cluster.local", "shop", "web").unwrap()
}

fn script(
    answer: impl Fn(&Ca, &Question, SystemTime) -> Vec<String> + Send + 'static,
) -> [Script; 1] {
    [Box::new(answer)]
}

#[tokio::test]
async fn a_successor_has_the_certificates_of_its_predecessor_and_renews_them_in_time() {
    let old = World::new([]);
    let issued = old.certificate().await;
    let held = old.manager.held();
    let bytes = pack(None, held.iter().map(AsRef::as_ref));
    let new = World::new([]);
    let state = unpack(&bytes, new.clock.now()).unwrap();
    assert!(state.carried.is_none());
    new.manager.adopt(state.certificates);
    let taken = new.certificate().await;
    assert_eq!(taken.serial(), issued.serial());
    assert_eq!(taken.key().to_der(), issued.key().to_der());
    new.clock.turn(DAY / 3).await;
    assert_eq!(new.authority.questions(), 0);
    new.clock.turn(DAY / 3).await;
    assert_eq!(new.authority.questions(), 1);
}

#[tokio::test]
async fn a_successor_takes_no_certificate_that_has_ended_and_keeps_none_that_is_not_wanted() {
    let old = World::new([]);
    old.certificate().await;
    let held = old.manager.held();
    let bytes = pack(None, held.iter().map(AsRef::as_ref));
    let late = unpack(&bytes, old.clock.now() + DAY * 2).unwrap();
    assert!(late.certificates.is_empty());
    let new = World::new([]);
    let state = unpack(&bytes, new.clock.now()).unwrap();
    new.manager.adopt(state.certificates);
    new.manager.drop_unwanted();
    new.certificate().await;
    assert_eq!(new.authority.questions(), 1);
    assert!(unpack(b"\xff\xff", new.clock.now()).is_err());
}

#[tokio::test]
async fn a_certificate_is_issued_for_a_key_of_ours_and_shows_no_key() {
    let world = World::new([]);
    let issued = world.certificate().await;
    assert_eq!(issued.identity(), &web());
    assert_eq!((issued.chain().len(), issued.roots().len()), (1, 1));
    assert_eq!(issued.not_after(), world.clock.now() + DAY);
    assert_eq!(
        world.manager.current(&web()).unwrap().serial(),
        issued.serial()
    );
    let key = issued.key().to_der();
    let status = serde_json::to_value(world.manager.status()).unwrap();
    assert_eq!(
        status[0]["identity"],
        "spiffe://cluster.local/ns/shop/sa/web"
    );
    assert_eq!(status[0]["state"], "Available");
    assert_eq!(
        status[0]["certChain"][0]["validFrom"],
        "2026-01-01T00:00:00Z"
    );
    assert_eq!(status[0]["certChain"][0]["valid"], true);
    assert_eq!(status[0]["rootCerts"].as_array().unwrap().len(), 1);
    for text in [
        format!("{issued:?} {:?} {:?}", issued.key(), world.manager),
        status.to_string(),
    ] {
        let tail = &key.secret_der()[key.secret_der().len() - 8..];
        assert!(
            !text.contains(&format!("{tail:?}").replace(['[', ']'], "")),
            "{text}"
        );
        assert!(!text.contains("PRIVATE"), "{text}");
    }
    world.tasks.shutdown(SOON).await;
}

#[tokio::test]
async fn a_certificate_is_renewed_near_half_of_its_life_with_a_new_key() {
    let world = World::new([]);
    let first = world.certificate().await;
    let mut renewals = world.manager.subscribe(&web()).unwrap();
    renewals.mark_unchanged();
    let start = world.clock.now();
    while world.authority.questions() < 2 {
        assert!(world.clock.now() < start + DAY, "not renewed in its life");
        world.clock.turn(HOUR / 10).await;
    }
    let asked = world.authority.asked.lock().unwrap()[1]
        .1
        .duration_since(start)
        .unwrap();
    assert!(
        asked >= DAY * 9 / 20 && asked <= DAY / 2 + HOUR / 10,
        "{asked:?}"
    );
    soon("the renewed certificate", renewals.changed())
        .await
        .unwrap();
    let second = renewals.borrow().clone().unwrap();
    assert_ne!(first.key().public_key(), second.key().public_key());
    assert_eq!(second.not_after(), start + asked + DAY);
    world.tasks.shutdown(SOON).await;
}

#[tokio::test]
async fn the_old_certificate_serves_until_its_end_while_nobody_answers() {
    let world = World::new([]);
    let first = world.certificate().await;
    *world.authority.is_deaf.lock().unwrap() = true;
    while world.clock.now() + HOUR < first.not_after() {
        world.clock.turn(HOUR).await;
        assert_eq!(
            world.manager.current(&web()).unwrap().serial(),
            first.serial()
        );
    }
    let status = world.manager.status().remove(0);
    assert_eq!(status.state, "Available");
    assert!(status.last_error.is_some());
    let renewals = world.manager.subscribe(&web()).unwrap();
    world.clock.turn(2 * HOUR).await;
    assert!(world.manager.current(&web()).is_none());
    assert!(renewals.borrow().is_none());
    let error = world
        .manager
        .certificate(&web(), Duration::ZERO)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("sa/web") && error.contains("no answer"),
        "{error}"
    );
    *world.authority.is_deaf.lock().unwrap() = false;
    world.clock.turn(HOUR).await;
    assert!(world.manager.current(&web()).is_some());
    world.tasks.shutdown(SOON).await;
}

#[tokio::test]
async fn an_answer_for_a_foreign_key_is_refused() {
    let world = World::new(script(|root, question, now| {
        let identity = question.identity.to_string();
        vec![
            root.sign_own_key(&identity, lasting(now, 3600)),
            root.root_pem(),
        ]
    }));
    let reason = world.refused_then_good().await;
    assert!(reason.contains("another key"), "{reason}");
    world.tasks.shutdown(SOON).await;
}

#[tokio::test]
async fn an_answer_for_another_identity_is_refused() {
    const ADMIN: &str = "spiffe://cluster.local/ns/shop/sa/admin";
    const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
    for (names, told) in [
        (ADMIN.to_owned(), "sa/admin"),
        (format!("{WEB} {ADMIN}"), "sa/admin"),
        (String::new(), "no URI SAN"),
    ] {
        let world = World::new(script(move |root, question, now| {
            vec![
                root.sign(&question.csr_pem, &names, lasting(now, 3600)),
                root.root_pem(),
            ]
        }));
        let reason = world.refused_then_good().await;
        assert!(
            reason.contains("is for ") && reason.contains(told),
            "{reason}"
        );
        world.tasks.shutdown(SOON).await;
    }
}

#[tokio::test]
async fn an_answer_that_is_not_valid_now_is_refused() {
    for (from, to) in [(-120, -60), (120, 3600)] {
        let world = World::new(script(move |root, question, now| {
            let at = |offset: i64| {
                let step = Duration::from_secs(offset.unsigned_abs());
                if offset < 0 { now - step } else { now + step }
            };
            let validity = Validity {
                from: at(from),
                to: at(to),
            };
            let leaf = root.sign(&question.csr_pem, &question.identity.to_string(), validity);
            vec![leaf, root.root_pem()]
        }));
        let reason = world.refused_then_good().await;
        assert!(reason.contains("check the clocks"), "{reason}");
        world.tasks.shutdown(SOON).await;
    }
}

#[tokio::test]
async fn a_ca_whose_clock_is_a_little_ahead_is_fine() {
    let world = World::new(script(|root, question, now| {
        good(root, question, now + Duration::from_secs(30))
    }));
    world.certificate().await;
    world.tasks.shutdown(SOON).await;
}

#[tokio::test]
async fn an_answer_that_leads_to_no_root_of_its_own_is_refused() {
    let other = |root: &Ca, question: &Question, now: SystemTime| {
        let mut chain = good(root, question, now);
        chain[1] = Ca::new("mesh").root_pem();
        chain
    };
    let world = World::new(script(other));
    let reason = world.refused_then_good().await;
    assert!(reason.contains("does not lead to a root"), "{reason}");
    world.tasks.shutdown(SOON).await;
}

#[tokio::test]
async fn an_answer_that_is_empty_short_long_or_garbage_is_refused() {
    let answers: [(Script, &str); 5] = [
        (Box::new(|_, _, _| Vec::new()), "0 certificates"),
        (
            Box::new(|root, question, now| good(root, question, now)[..1].to_vec()),
            "1 certificates",
        ),
        (
            Box::new(|root, _, _| vec![root.root_pem(); 40]),
            "17 certificates",
        ),
        (
            Box::new(|_, _, _| vec!["garbage".to_owned(); 2]),
            "no PEM block",
        ),
        (
            Box::new(|root, question, now| {
                let leaf = good(root, question, now).remove(0);
                vec![leaf.clone(), leaf]
            }),
            "no root",
        ),
    ];
    for (answer, told) in answers {
        let world = World::new([answer]);
        let reason = world.refused_then_good().await;
        assert!(reason.contains(told), "{reason}");
        world.tasks.shutdown(SOON).await;
    }
}

#[tokio::test]
async fn after_a_rotation_both_roots_are_trusted_and_the_cross_certificate_is_shown() {
    let world = World::new(script(|old, question, now| {
        let new = Ca::new("mesh 2");
        let leaf = good(&new, question, now).remove(0);
        vec![
            leaf,
            new.cross_signed_by(old, "mesh 2"),
            new.root_pem(),
            old.root_pem(),
        ]
    }));
    let issued = world.certificate().await;
    assert_eq!((issued.chain().len(), issued.roots().len()), (2, 2));
    world.tasks.shutdown(SOON).await;
}

#[tokio::test]
async fn many_who_ask_for_one_identity_are_one_question() {
    let world = World::new([]);
    let asks = (0..20).map(|_| world.certificate());
    let all = futures::future::join_all(asks).await;
    assert!(all.iter().all(|issued| issued.serial() == all[0].serial()));
    assert_eq!(world.authority.questions(), 1);
    world.tasks.shutdown(SOON).await;
}

#[tokio::test]
async fn the_wanted_set_is_fetched_ahead_and_what_left_it_is_dropped() {
    let world = World::new([]);
    let identity = |n: usize| Identity::new("cluster.local", "shop", &format!("a{n}")).unwrap();
    world
        .manager
        .set_wanted(&(0..40).map(identity).collect())
        .unwrap();
    world.clock.turn(Duration::ZERO).await;
    assert!((0..40).all(|n| world.manager.current(&identity(n)).is_some()));
    let mut leaving = world.manager.subscribe(&identity(0)).unwrap();
    leaving.mark_unchanged();
    world
        .manager
        .set_wanted(&(1..41).map(identity).collect())
        .unwrap();
    world.clock.turn(Duration::ZERO).await;
    assert!(world.manager.current(&identity(0)).is_none());
    assert!(
        soon("the end", leaving.changed()).await.is_err(),
        "its followers are told"
    );
    assert!(world.manager.current(&identity(40)).is_some());
    assert_eq!(world.authority.questions(), 41);
    assert!(world.manager.forget(&identity(1)) && !world.manager.forget(&identity(1)));
    assert_eq!(world.manager.status().len(), 39);
    world.tasks.shutdown(SOON).await;
}

#[tokio::test]
async fn the_control_plane_is_asked_with_token_and_identity() {
    let server = Tasks::new();
    let site = Site::new();
    let mut served = site.serve(&server).await;
    let tasks = Tasks::new();
    let authority = Arc::new(GrpcAuthority::new(site.control_plane()));
    let manager = CertManager::start(&tasks, authority, Arc::new(SystemClock), DAY);
    let issued = manager.certificate(&web(), SOON).await.unwrap();
    assert_eq!(issued.identity(), &web());
    let call = served.next_call().await;
    assert_eq!(call.authorization.as_deref(), Some("Bearer f00d"));
    assert!(call.what.contains("ImpersonatedIdentity"), "{call:?}");
    let stranger = Identity::new("cluster.local", "shop", "stranger").unwrap();
    manager.want(&stranger).unwrap();
    served.next_call().await;
    let refused = async {
        while manager.last_error(&stranger).is_none() {
            tokio::task::yield_now().await;
        }
    };
    soon("the refusal", refused).await;
    let error = manager
        .certificate(&stranger, Duration::ZERO)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no pod of this node has that identity"),
        "{error}"
    );
    tasks.shutdown(SOON).await;
    server.shutdown(SOON).await;
}

#[tokio::test]
async fn an_authority_that_is_not_there_is_named_and_asked_again() {
    let site = Site::new();
    let tasks = Tasks::new();
    let authority = Arc::new(GrpcAuthority::new(site.control_plane()));
    let manager = CertManager::start(&tasks, authority, Arc::new(SystemClock), DAY);
    manager.want(&web()).unwrap();
    let failed = async {
        while manager.last_error(&web()).is_none() {
            tokio::task::yield_now().await;
        }
    };
    soon("the failure", failed).await;
    let error = manager.last_error(&web()).unwrap();
    assert!(error.contains(&site.address.to_string()), "{error}");
    let server = Tasks::new();
    let _served = site.serve(&server).await;
    manager.certificate(&web(), SOON).await.unwrap();
    tasks.shutdown(SOON).await;
    server.shutdown(SOON).await;
}
