use std::num::NonZeroUsize;

use serde_json::{Value, json};

use super::*;
use crate::jobs::names::container_name;
use crate::jobs::pod::Goal;

const DEADLINE: Duration = Duration::from_secs(300);

pub(super) fn at(second: u64) -> Timestamp {
    after(Timestamp::UNIX_EPOCH, Duration::from_secs(second))
}

pub(super) fn image(text: &str) -> ImageRef {
    text.parse().unwrap()
}

pub(super) fn mk_options() -> JobOptions {
    JobOptions::new(image("registry.test/ours:1"), "operator")
        .with_images_per_job(NonZeroUsize::new(3).unwrap())
}

pub(super) fn mk_jobs(options: &JobOptions) -> NodeJobs {
    let mut jobs = NodeJobs::new(NodeName::new("node").unwrap(), options, 1);
    jobs.ready(true);
    jobs
}

pub(super) fn pull(id: u64, text: &str, now: u64) -> Want {
    Want {
        id,
        namespace: "shop".to_owned(),
        goal: Goal::Begin(image(text)),
        ends: after(at(now), DEADLINE),
        deadline: DEADLINE,
        times: 1,
    }
}

/// The only Job that is to be created, and its images.
pub(super) fn created(commands: &[Command]) -> (String, Vec<ImageRef>) {
    match commands {
        [Command::Create { name, images, .. }] => (name.clone(), images.clone()),
        other => panic!("{other:?}"),
    }
}

/// A pod of that Job whose containers of these images are in these states.
pub(super) fn pod(job: &str, states: &[(&str, Value)]) -> Arc<ReadPod> {
    let statuses: Vec<Value> = states
        .iter()
        .map(|(text, state)| json!({ "name": container_name(&image(text)), "state": state }))
        .collect();
    let pod = json!({
        "metadata": { "name": format!("{job}-x"), "namespace": "shop", "uid": "1",
            "labels": { "batch.kubernetes.io/job-name": job } },
        "status": { "phase": "Pending", "startTime": "2026-01-01T00:00:00Z",
            "containerStatuses": statuses },
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

pub(super) fn waiting(reason: &str, message: &str) -> Value {
    json!({ "waiting": { "reason": reason, "message": message } })
}

pub(super) fn done() -> Value {
    json!({ "terminated": { "exitCode": 0, "reason": "Completed" } })
}

pub(super) fn read_job(name: &str, containers: &[&str], condition: Option<&str>) -> ReadJob {
    let containers = containers.iter();
    let containers: Vec<Value> = containers
        .map(|text| json!({ "name": container_name(&image(text)) }))
        .collect();
    let conditions: Vec<Value> = condition
        .map(|kind| json!({ "type": kind, "status": "True", "reason": "R", "message": "m" }))
        .into_iter()
        .collect();
    let job = json!({
        "metadata": { "name": name, "namespace": "shop",
            "labels": { "kubefledged.io/job": "pull" } },
        "spec": { "template": { "spec": { "containers": containers } } },
        "status": { "conditions": conditions },
    });
    serde_json::from_value(job).unwrap()
}

/// What callers are told, by their number.
pub(super) fn answers(commands: &[Command]) -> Vec<(u64, Result<(), Reason>)> {
    let answers = commands.iter().filter_map(|command| match command {
        Command::Answer { id, result, .. } => {
            Some((*id, result.clone().map(drop).map_err(|f| f.reason)))
        }
        _ => None,
    });
    answers.collect()
}

pub(super) fn deletes(commands: &[Command]) -> Vec<&str> {
    let deletes = commands.iter().filter_map(|command| match command {
        Command::Delete { name, .. } => Some(name.as_str()),
        _ => None,
    });
    deletes.collect()
}

/// Two images in a Job that was created.
pub(super) fn mk_running(options: &JobOptions) -> (NodeJobs, String) {
    let mut jobs = mk_jobs(options);
    jobs.want(pull(1, "app:1", 0), at(0));
    jobs.want(pull(2, "db:1", 0), at(0));
    let (name, _) = created(&jobs.poll(at(1)));
    jobs.created(&name, at(1));
    (jobs, name)
}

#[test]
fn what_is_missing_at_once_goes_into_one_job() {
    let mut jobs = mk_jobs(&mk_options());
    assert!(jobs.poll(at(0)).is_empty());
    assert_eq!(jobs.next_wakeup(), None, "nothing is missing");
    jobs.want(pull(1, "db:1", 0), at(0));
    jobs.want(pull(2, "app:1", 0), at(0));
    assert!(jobs.poll(at(0)).is_empty());
    let debounced = after(at(0), Duration::from_millis(100));
    assert_eq!(jobs.next_wakeup(), Some(debounced));
    let (_, images) = created(&jobs.poll(debounced));
    // In the order in which they were asked for.
    assert_eq!(images, [image("db:1"), image("app:1")]);
    assert!(jobs.poll(at(2)).is_empty());
}

#[test]
fn a_namespace_has_its_own_job_and_a_job_so_many_images() {
    let mut jobs = mk_jobs(&mk_options());
    for id in 0..4 {
        jobs.want(pull(id, &format!("app:{id}"), 0), at(0));
    }
    let mut other = pull(9, "app:1", 0);
    other.namespace = "bank".to_owned();
    jobs.want(other, at(0));
    let commands = jobs.poll(at(1));
    let made = commands.iter().map(|command| match command {
        Command::Create {
            namespace, images, ..
        } => (namespace.as_str(), images.len()),
        other => panic!("{other:?}"),
    });
    let made: Vec<_> = made.collect();
    assert_eq!(made, [("bank", 1), ("shop", 3), ("shop", 1)]);
}

#[test]
fn what_has_begun_is_pulled_and_a_job_that_nobody_waits_for_is_deleted() {
    let (mut jobs, name) = mk_running(&mk_options());
    jobs.pod(
        pod(&name, &[("app:1", done()), ("db:1", waiting("", ""))]),
        at(5),
    );
    assert_eq!(answers(&jobs.poll(at(5))), [(1, Ok(()))]);
    jobs.pod(pod(&name, &[("app:1", done()), ("db:1", done())]), at(6));
    let commands = jobs.poll(at(6));
    assert_eq!(answers(&commands), [(2, Ok(()))]);
    assert_eq!(deletes(&commands), [name.as_str()]);
    assert!(jobs.poll(at(7)).is_empty(), "once");
    jobs.job_gone(&name, at(20));
    assert_eq!(jobs.next_wakeup(), None);
}

#[test]
fn a_failure_is_told_at_once_and_whoever_comes_back_waits_for_the_same_job() {
    let (mut jobs, name) = mk_running(&mk_options());
    let refused = "dial tcp: connection refused";
    let failing = || {
        pod(
            &name,
            &[
                ("app:1", waiting("ErrImagePull", refused)),
                ("db:1", done()),
            ],
        )
    };
    jobs.pod(failing(), at(5));
    let commands = jobs.poll(at(5));
    assert_eq!(
        answers(&commands),
        [(1, Err(Reason::ConnectionFailed)), (2, Ok(()))]
    );
    assert!(deletes(&commands).is_empty(), "the kubelet goes on trying");
    jobs.want(pull(3, "app:1", 6), at(6));
    assert!(jobs.poll(at(7)).is_empty(), "no other Job, and nothing new");
    // Between attempts it says the same in other words; only the next attempt is news.
    let between = waiting("ImagePullBackOff", &format!("ErrImagePull: {refused}"));
    jobs.pod(pod(&name, &[("app:1", between), ("db:1", done())]), at(8));
    assert!(jobs.poll(at(8)).is_empty());
    jobs.pod(failing(), at(15));
    assert_eq!(
        answers(&jobs.poll(at(15))),
        [(3, Err(Reason::ConnectionFailed))]
    );
    // A caller is not left waiting where there is no news at all.
    jobs.want(pull(4, "app:1", 16), at(16));
    assert!(answers(&jobs.poll(at(35))).is_empty());
    assert_eq!(jobs.next_wakeup(), Some(at(36)));
    assert_eq!(
        answers(&jobs.poll(at(36))),
        [(4, Err(Reason::ConnectionFailed))]
    );
    jobs.want(pull(5, "app:1", 40), at(40));
    jobs.pod(pod(&name, &[("app:1", done()), ("db:1", done())]), at(41));
    let commands = jobs.poll(at(41));
    assert_eq!(answers(&commands), [(5, Ok(()))]);
    assert_eq!(deletes(&commands), [name.as_str()]);
}

#[test]
fn what_is_reached_while_nobody_waits_is_not_lost() {
    let (mut jobs, name) = mk_running(&mk_options());
    let failing = || waiting("ErrImagePull", "dial tcp: connection refused");
    jobs.pod(pod(&name, &[("app:1", failing()), ("db:1", done())]), at(5));
    assert_eq!(answers(&jobs.poll(at(5))).len(), 2);
    jobs.pod(pod(&name, &[("app:1", done()), ("db:1", done())]), at(6));
    let unclaimed = Command::Unclaimed {
        job: name.clone(),
        image: Some(image("app:1")),
        reached: Reached::Pulled(None),
    };
    let commands = jobs.poll(at(6));
    assert!(commands.contains(&unclaimed), "{commands:?}");
    assert_eq!(deletes(&commands), [name.as_str()]);
}

#[test]
fn a_job_is_not_kept_for_what_waiting_does_not_mend() {
    let (mut jobs, name) = mk_running(&mk_options());
    let missing = waiting("ErrImagePull", "manifest unknown");
    let states = [("app:1", missing), ("db:1", waiting("", ""))];
    jobs.pod(pod(&name, &states), at(5));
    let commands = jobs.poll(at(5));
    assert_eq!(answers(&commands), [(1, Err(Reason::ImageNotFound))]);
    assert!(deletes(&commands).is_empty(), "another is still waited for");
    jobs.drop_want(2, at(6));
    assert_eq!(deletes(&jobs.poll(at(6))), [name.as_str()]);
    // Nothing attaches to what is on its way out.
    jobs.want(pull(3, "app:1", 7), at(7));
    let (next, _) = created(&jobs.poll(at(8)));
    assert_ne!(next, name);
}

#[test]
fn a_job_lingers_for_what_may_pass_and_not_for_ever() {
    let (mut jobs, name) = mk_running(&mk_options());
    let failing = || waiting("ErrImagePull", "dial tcp: connection refused");
    jobs.pod(
        pod(&name, &[("app:1", failing()), ("db:1", failing())]),
        at(5),
    );
    assert_eq!(answers(&jobs.poll(at(5))).len(), 2);
    let until = after(at(5), LINGER);
    assert_eq!(jobs.next_wakeup(), Some(until));
    assert_eq!(deletes(&jobs.poll(until)), [name.as_str()]);
}

#[test]
fn jobs_that_are_retained_stay_and_are_used_again() {
    let options = mk_options().with_retention(Retention::Retain);
    let (mut jobs, name) = mk_running(&options);
    let failing = || waiting("ErrImagePull", "manifest unknown");
    jobs.pod(pod(&name, &[("app:1", failing()), ("db:1", done())]), at(5));
    let commands = jobs.poll(at(5));
    assert_eq!(answers(&commands).len(), 2);
    assert!(deletes(&commands).is_empty());
    assert_eq!(jobs.next_wakeup(), None);
    jobs.want(pull(3, "app:1", 70), at(70));
    assert!(jobs.poll(at(71)).is_empty(), "no other Job");
    jobs.pod(pod(&name, &[("app:1", done()), ("db:1", done())]), at(80));
    assert_eq!(answers(&jobs.poll(at(80))), [(3, Ok(()))]);
    assert!(jobs.job(&read_job(&name, &[], Some("Complete")), at(81)));
    assert!(jobs.poll(at(90)).is_empty());
    assert!(jobs.let_go().is_empty(), "what has ended is left alone");
}

#[test]
fn a_pod_that_never_begins_is_told_of_at_the_deadline() {
    let (mut jobs, name) = mk_running(&mk_options());
    let unscheduled = json!({
        "metadata": { "name": "p", "namespace": "shop",
            "labels": { "batch.kubernetes.io/job-name": name } },
        "status": { "phase": "Pending", "conditions": [{ "type": "PodScheduled",
            "status": "False", "reason": "Unschedulable", "message": "0/1 nodes" }] },
    });
    jobs.pod(
        Arc::new(serde_json::from_value(unscheduled).unwrap()),
        at(2),
    );
    assert!(jobs.poll(at(299)).is_empty());
    let commands = jobs.poll(at(300));
    let failures: Vec<&Failure> = commands
        .iter()
        .filter_map(|command| match command {
            Command::Answer { result, .. } => result.as_ref().err(),
            _ => None,
        })
        .collect();
    assert_eq!(failures.len(), 2);
    assert_eq!(failures[0].reason, Reason::DeadlineExceeded);
    assert!(failures[0].message.contains("0/1 nodes"), "{}", failures[0]);
    assert_eq!(deletes(&commands), [name.as_str()]);
}

#[test]
fn what_one_kubelet_pulls_in_a_row_shares_the_sum_of_the_deadlines() {
    let (mut jobs, name) = mk_running(&mk_options());
    let creating = || waiting("ContainerCreating", "");
    let taken = || pod(&name, &[("app:1", creating()), ("db:1", creating())]);
    jobs.pod(taken(), at(100));
    let images = vec![image("app:1"), image("db:1")];
    assert_eq!(jobs.poll(at(100)), [Command::Stretch { images, times: 2 }]);
    jobs.pod(taken(), at(101));
    assert!(jobs.poll(at(301)).is_empty(), "once, and twice as long");
    assert_eq!(answers(&jobs.poll(at(600))).len(), 2);
    // Whoever has that much already gets no more.
    let mut want = pull(3, "app:1", 700);
    want.times = 2;
    jobs.want(want, at(700));
    jobs.want(pull(4, "db:1", 700), at(700));
    let commands = jobs.poll(at(701));
    let next = commands.iter().find_map(|command| match command {
        Command::Create { name, .. } => Some(name.clone()),
        _ => None,
    });
    let next = next.unwrap();
    jobs.pod(pod(&next, &[]), at(702));
    let images = vec![image("db:1")];
    assert_eq!(jobs.poll(at(702)), [Command::Stretch { images, times: 2 }]);
}

#[test]
fn nothing_is_created_on_a_node_that_is_not_ready() {
    let mut jobs = mk_jobs(&mk_options());
    jobs.ready(false);
    jobs.want(pull(1, "app:1", 0), at(0));
    assert!(jobs.poll(at(10)).is_empty());
    assert_eq!(jobs.next_wakeup(), Some(at(300)));
    jobs.ready(true);
    created(&jobs.poll(at(20)));
    jobs.want(pull(2, "db:1", 20), at(20));
    jobs.ready(false);
    let commands = jobs.poll(at(320));
    let told = commands.iter().find_map(|command| match command {
        Command::Answer { id: 2, result, .. } => result.clone().err(),
        _ => None,
    });
    assert!(told.unwrap().message.contains("not Ready"));
}

#[test]
fn what_is_being_removed_waits_and_nothing_else_does() {
    let mut jobs = mk_jobs(&mk_options());
    jobs.block(BTreeSet::from([image("app:1")]));
    jobs.want(pull(1, "app:1", 0), at(0));
    jobs.want(pull(2, "db:1", 0), at(0));
    let (_, images) = created(&jobs.poll(at(1)));
    assert_eq!(images, [image("db:1")]);
    assert!(jobs.next_wakeup() > Some(at(1)), "or it would spin");
    jobs.block(BTreeSet::new());
    assert!(jobs.next_wakeup() <= Some(at(2)));
    let (_, images) = created(&jobs.poll(at(2)));
    assert_eq!(images, [image("app:1")]);
}

#[test]
fn what_keeps_a_job_from_having_a_pod_is_asked_for_and_told() {
    let (mut jobs, name) = mk_running(&mk_options());
    assert!(jobs.poll(at(5)).is_empty());
    assert_eq!(jobs.next_wakeup(), Some(at(6)));
    let inquire = Command::Inquire {
        name: name.clone(),
        namespace: "shop".to_owned(),
    };
    assert_eq!(jobs.poll(at(6)), [inquire]);
    let quota = Failure::new(Reason::Unknown, "exceeded quota");
    jobs.troubled(&name, quota, at(7));
    let commands = jobs.poll(at(7));
    assert_eq!(answers(&commands).len(), 2);
    assert!(deletes(&commands).is_empty(), "the quota may be raised");
    // A Job that is refused itself is gone, and the next attempt makes another.
    let mut jobs = mk_jobs(&mk_options());
    jobs.want(pull(1, "app:1", 0), at(0));
    let (name, _) = created(&jobs.poll(at(1)));
    jobs.refused(&name, &Failure::new(Reason::Unknown, "forbidden"));
    assert_eq!(answers(&jobs.poll(at(1))), [(1, Err(Reason::Unknown))]);
    jobs.want(pull(2, "app:1", 2), at(2));
    created(&jobs.poll(at(3)));
}

#[test]
fn a_job_that_ends_or_goes_without_a_word_is_an_answer_too() {
    let (mut jobs, name) = mk_running(&mk_options());
    assert!(jobs.job(&read_job(&name, &[], Some("Failed")), at(5)));
    assert!(jobs.poll(at(5)).is_empty(), "its pod may tell more");
    jobs.pod(pod(&name, &[("db:1", done())]), at(6));
    let commands = jobs.poll(at(7));
    assert_eq!(answers(&commands), [(2, Ok(())), (1, Err(Reason::Unknown))]);
    // Nobody waits, and nothing attaches to what has ended.
    jobs.want(pull(3, "app:1", 8), at(8));
    let next = jobs
        .poll(at(9))
        .into_iter()
        .find_map(|command| match command {
            Command::Create { name, .. } => Some(name),
            _ => None,
        });
    let next = next.unwrap();
    jobs.job_gone(&next, at(20));
    assert_eq!(answers(&jobs.poll(at(9))), [(3, Err(Reason::Unknown))]);
}

#[test]
fn jobs_of_an_earlier_process_are_used_or_deleted() {
    let mut jobs = mk_jobs(&mk_options());
    let containers = ["app:1", "db:1"];
    let states = [
        ("app:1", waiting("ContainerCreating", "")),
        ("db:1", done()),
    ];
    let pod_of = |states: &[(&str, Value)]| Some(pod("old", states));
    jobs.adopt(
        &read_job("old", &containers, None),
        pod_of(&states),
        after(at(0), LINGER),
        at(0),
    );
    jobs.adopt(
        &read_job("idle", &containers, None),
        None,
        after(at(0), LINGER),
        at(0),
    );
    jobs.want(pull(1, "app:1", 1), at(1));
    assert!(jobs.poll(at(2)).is_empty(), "it is at it already");
    // What it had pulled before anybody asked says nothing of now.
    jobs.want(pull(2, "cron:1", 2), at(2));
    let (_, images) = created(&jobs.poll(at(3)));
    assert_eq!(images, [image("cron:1")]);
    let begun = [("app:1", done()), ("db:1", done())];
    for name in ["old", "idle"] {
        jobs.pod(pod(name, &begun), at(4));
    }
    let commands = jobs.poll(at(4));
    assert_eq!(answers(&commands), [(1, Ok(()))]);
    assert!(deletes(&commands).is_empty());
    let mut gone = deletes(&jobs.poll(after(at(0), LINGER))).join(" ");
    gone.push(' ');
    assert_eq!(gone, "idle old ");
}
