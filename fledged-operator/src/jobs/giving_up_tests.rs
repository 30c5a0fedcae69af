//! How Jobs are given up, and what waits until they are gone.

use super::tests::{
    answers, at, created, deletes, done, mk_jobs, mk_options, mk_running, pod, pull, read_job,
    waiting,
};
use super::*;

/// Somebody who wants something removed.
fn removal(id: u64, now: u64) -> Want {
    Want {
        goal: Goal::End,
        ..pull(id, "app:1", now)
    }
}

/// Whether a Job that removes is to be created.
fn removes(commands: &[Command]) -> bool {
    let removes = |command: &Command| {
        matches!(
            command,
            Command::Create {
                kind: Kind::Remove,
                ..
            }
        )
    };
    commands.iter().any(removes)
}

/// A deleted pod is there until its kubelet has let go of what it pulls.
#[test]
fn a_removal_waits_for_the_pod_of_a_pull_that_was_given_up() {
    let (mut jobs, name) = mk_running(&mk_options());
    let pulling = [("app:1", waiting("", "")), ("db:1", waiting("", ""))];
    jobs.pod(pod(&name, &pulling), at(5));
    jobs.drop_want(1, at(6));
    jobs.drop_want(2, at(6));
    assert_eq!(deletes(&jobs.poll(at(6))), [name.as_str()]);
    jobs.want(removal(3, 6), at(6));
    jobs.job_gone(&name, at(7));
    assert!(!removes(&jobs.poll(at(20))), "its pod is there");
    jobs.pod_gone(&pod(&name, &pulling));
    assert!(removes(&jobs.poll(at(21))));
}

/// The watch of pods may be behind that of Jobs.
#[test]
fn a_job_that_goes_young_may_have_had_a_pod() {
    let (mut jobs, name) = mk_running(&mk_options());
    jobs.drop_want(1, at(2));
    jobs.drop_want(2, at(2));
    assert_eq!(deletes(&jobs.poll(at(2))), [name.as_str()]);
    jobs.job_gone(&name, at(2));
    jobs.want(removal(3, 2), at(2));
    assert!(!removes(&jobs.poll(at(3))));
    assert!(jobs.next_wakeup().is_some_and(|at_most| at_most <= at(7)));
    assert!(removes(&jobs.poll(at(7))), "none has turned up");
}

#[test]
fn a_removal_waits_while_a_job_may_bring_what_is_to_go() {
    let (mut jobs, name) = mk_running(&mk_options());
    jobs.drop_want(1, at(2));
    jobs.want(removal(3, 2), at(2));
    let commands = jobs.poll(at(3));
    assert!(
        deletes(&commands).is_empty() && !removes(&commands),
        "{commands:?}"
    );
    // It has come, and can be removed; the other is still on its way.
    let came = [("app:1", done()), ("db:1", waiting("", ""))];
    jobs.pod(pod(&name, &came), at(5));
    assert!(removes(&jobs.poll(at(5))));
}

#[test]
fn what_an_earlier_process_was_pulling_is_waited_for_too() {
    let mut jobs = mk_jobs(&mk_options());
    let states = [("app:1", waiting("ContainerCreating", ""))];
    jobs.adopt(
        &read_job("old", &["app:1"], None),
        Some(pod("old", &states)),
        after(at(0), LINGER),
        at(0),
    );
    jobs.want(removal(1, 1), at(1));
    assert!(!removes(&jobs.poll(at(2))));
    assert_eq!(deletes(&jobs.poll(after(at(0), LINGER))), ["old"]);
    jobs.job_gone("old", at(46));
    jobs.pod_gone(&pod("old", &states));
    assert!(removes(&jobs.poll(at(47))));
}

#[test]
fn a_retained_job_that_would_go_on_for_nobody_is_deleted() {
    let (mut jobs, name) = mk_running(&mk_options().with_retention(Retention::Retain));
    let failing = || waiting("ErrImagePull", "dial tcp: connection refused");
    jobs.pod(
        pod(&name, &[("app:1", failing()), ("db:1", failing())]),
        at(5),
    );
    assert_eq!(answers(&jobs.poll(at(5))).len(), 2);
    // Both come back, and are not wanted any more.
    jobs.want(pull(3, "app:1", 6), at(6));
    jobs.want(pull(4, "db:1", 6), at(6));
    let _ = jobs.poll(at(6));
    jobs.drop_want(3, at(7));
    jobs.drop_want(4, at(7));
    assert_eq!(deletes(&jobs.poll(at(7))), [name.as_str()]);
}

#[test]
fn a_removal_that_waited_in_vain_says_what_for() {
    let (mut jobs, _) = mk_running(&mk_options());
    jobs.drop_want(1, at(2));
    jobs.want(removal(3, 2), at(2));
    let commands = jobs.poll(at(302));
    let late = commands.iter().find_map(|command| match command {
        Command::Answer { id: 3, result, .. } => result.as_ref().err(),
        _ => None,
    });
    let late = late.unwrap();
    assert!(late.message.contains("has to end first"), "{late}");
}

#[test]
fn a_job_that_never_was_keeps_nothing_up() {
    let mut jobs = mk_jobs(&mk_options());
    jobs.want(pull(1, "app:1", 0), at(0));
    let (name, _) = created(&jobs.poll(at(1)));
    // Given up before the API server has answered.
    jobs.drop_want(1, at(1));
    assert_eq!(deletes(&jobs.poll(at(1))), [name.as_str()]);
    jobs.want(removal(2, 1), at(1));
    assert!(jobs.poll(at(2)).is_empty(), "it may be pulling yet");
    jobs.job_gone(&name, at(20));
    assert!(removes(&jobs.poll(at(3))));
    // It came to be after all.
    let stray = read_job(&name, &["app:1"], None);
    assert!(!jobs.job(&stray, at(4)));
    jobs.adopt(&stray, None, at(4), at(4));
    assert_eq!(deletes(&jobs.poll(at(4))), [name.as_str()]);
}

#[test]
fn a_node_that_is_let_go_leaves_no_job_behind() {
    let (mut jobs, name) = mk_running(&mk_options());
    assert_eq!(deletes(&jobs.let_go()), [name.as_str()]);
}

/// The API server says some time after its pod is done that a Job is complete.
#[test]
fn a_node_that_is_let_go_leaves_a_retained_job_that_is_about_to_end() {
    let options = mk_options().with_retention(Retention::Retain);
    let (mut jobs, name) = mk_running(&options);
    let failing = waiting("ErrImagePull", "manifest unknown");
    jobs.pod(pod(&name, &[("app:1", failing), ("db:1", done())]), at(5));
    let _ = jobs.poll(at(5));
    assert_eq!(deletes(&jobs.let_go()), [name.as_str()], "one goes on");

    let (mut jobs, name) = mk_running(&options);
    jobs.pod(pod(&name, &[("app:1", done()), ("db:1", done())]), at(5));
    assert_eq!(answers(&jobs.poll(at(5))).len(), 2);
    assert!(jobs.let_go().is_empty());
}
