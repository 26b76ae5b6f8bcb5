//! A daemon that `up` started ends with it, even when `up` is killed with -9.
//!
//! `up` names itself in the environment of its children; the child asks the kernel for SIGTERM on its parent's death
//! first thing, while it has one thread, and then looks whether its parent was still the one that started it.

use std::process::Command;

use steady_sys::kin;

const VARIABLE: &str = "STEADY_UP_PID";

/// Makes `command` a child that follows this process. Spawn it from the main thread: the kernel sends the signal when
/// the thread that spawned it ends.
pub fn lead(command: &mut Command) {
    command.env(VARIABLE, std::process::id().to_string());
}

/// In the child. False when the parent is gone already.
pub fn follow() -> bool {
    let Some(parent) = std::env::var(VARIABLE).ok().and_then(|text| text.parse().ok()) else {
        return true;
    };
    kin::die_with_parent(parent)
}
