//! What is measured.

use super::load::{Life, Shape};

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub name: &'static str,
    pub shape: Shape,
}

const fn row(name: &'static str, h2: bool, tls: bool, connections: usize, streams: usize) -> Row {
    let shape = Shape { h2, tls, connections, streams, download: 100, upload: 0, life: Life::Kept };
    Row { name, shape }
}

impl Row {
    const fn down(mut self, octets: usize) -> Row {
        self.shape.download = octets;
        self
    }

    const fn up(mut self, octets: usize) -> Row {
        self.shape.upload = octets;
        self
    }

    const fn life(mut self, life: Life) -> Row {
        self.shape.life = life;
        self
    }
}

const KIB: usize = 1024;

/// All of them, in the order in which they are shown.
pub const ROWS: [Row; 18] = [
    row("h1-1", false, false, 1, 1),
    row("h1-8", false, false, 8, 1),
    row("h1-64", false, false, 64, 1),
    row("h1-512", false, false, 512, 1),
    row("h2-8x16", true, false, 8, 16),
    row("h1-tls-64", false, true, 64, 1),
    row("h2-tls-8x16", true, true, 8, 16),
    row("down-64k", false, false, 16, 1).down(64 * KIB),
    row("down-1m", false, false, 8, 1).down(1024 * KIB),
    row("up-64k", false, false, 16, 1).up(64 * KIB),
    row("up-1m", false, false, 8, 1).up(1024 * KIB),
    row("h2-tls-down-64k", true, true, 4, 4).down(64 * KIB),
    row("h2-tls-down-1m", true, true, 4, 2).down(1024 * KIB),
    row("h2-tls-up-64k", true, true, 4, 4).up(64 * KIB),
    row("new-connection", false, false, 16, 1).life(Life::Each),
    row("tls-full", false, true, 16, 1).life(Life::EachInFull),
    row("tls-resumed", false, true, 16, 1).life(Life::Each),
    row("websocket-64", false, false, 64, 1).life(Life::Tunnel),
];

/// The rows of these names; all when there are none.
///
/// # Errors
/// A name that is none, with those that are.
pub fn chosen(names: &[String]) -> Result<Vec<Row>, String> {
    if names.is_empty() {
        return Ok(ROWS.to_vec());
    }
    let find = |name: &String| {
        let row = ROWS.iter().find(|row| row.name == name);
        row.copied().ok_or_else(|| {
            let known: Vec<_> = ROWS.iter().map(|row| row.name).collect();
            format!("there is no row `{name}`; there are {}", known.join(", "))
        })
    };
    names.iter().map(find).collect()
}
