//! The few operating-system calls that need unsafe code or raw file descriptors.
#![allow(unsafe_code)]

pub mod clock;
pub mod cpu;
pub mod fds;
pub mod kin;
pub mod limits;
pub mod net;
pub mod pidfd;
pub mod process;
pub mod terminal;
pub mod text;
pub mod usage;
