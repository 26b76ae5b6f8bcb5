//! The few operating-system calls that need unsafe code or raw file descriptors
