//! Hostile clients on real sockets against an edge and a host, on both drivers. Each attack says which limit answers it, what the
//! attacker gets, and that meanwhile memory stays bounded and a well-behaved client on the same worker is served.
//! docs/threat-model.md has the whole list; what other files show is not repeated here.

#[path = "../house/mod.rs"]
mod house;
#[path = "../support/mod.rs"]
mod support;

mod bombs;
mod floods;
mod frames;
mod siege;
mod slow;
mod smuggling;
mod strangers;

#[global_allocator]
static ALLOCATOR: steady_heap::Counting = steady_heap::Counting;
