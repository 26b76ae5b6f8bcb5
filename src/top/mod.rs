//! `steady top`: a live view of hosts and applications.
//!
//! [`model`] is what the edge answers, [`view`] turns it into lines, [`paint`] into text; here are the terminal, the keys and the
//! clock. Without a terminal there is one look, as text or JSON.

mod model;
mod paint;
mod view;

use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::Value;
use steady_sys::terminal::{self, Raw};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::cli::TopArgs;
use crate::client::Client;
use crate::commands::Out;
use crate::error::Error;
use crate::show::{self, Style};

use self::model::Detail;
use self::view::{Chosen, Known, screen, sorted};

/// Between two questions to the edge, which learns something new as often.
const EVERY: Duration = Duration::from_secs(1);
/// For one answer; a view that waits longer says so.
const ANSWER: Duration = Duration::from_secs(3);
/// Columns where nobody says how many there are.
const WIDTH: usize = 160;
/// Screen and cursor: another screen without a cursor, and back (xterm's control sequences, DECSET 1049 and 25).
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

pub async fn run(client: &Client, out: Out, args: &TopArgs) -> Result<(), Error> {
    let path = format!("/v1/latency?apps={}&spark=60", args.apps);
    if out.json {
        return show::line(&client.json(&path).await?.to_string());
    }
    let live = !args.once && io::stdout().is_terminal() && io::stdin().is_terminal();
    if live {
        return watch(client, &path).await;
    }
    let known = Known { latency: parse(client.json(&path).await?)?, ..Known::default() };
    let width = terminal::size(io::stdout().as_fd()).map_or(WIDTH, |(columns, _)| usize::from(columns));
    let colour = Style::of(&io::stdout()).is_coloured();
    for line in screen(&known, &Chosen::default(), width, 0) {
        show::line(&line.render(width, colour))?;
    }
    Ok(())
}

fn parse<T: serde::de::DeserializeOwned>(answer: Value) -> Result<T, Error> {
    serde_json::from_value(answer).map_err(|error| Error::Failed(format!("the edge answered something else: {error}")))
}

/// The terminal as we found it, when this is dropped or the process panics.
struct Screen {
    _raw: Raw,
}

impl Screen {
    fn enter() -> Result<Screen, Error> {
        let failed = |error: io::Error| Error::Failed(format!("the terminal cannot be used: {error}; try --once"));
        let raw = Raw::enter(io::stdin().as_fd()).map_err(failed)?;
        show::raw(ENTER.as_bytes())?;
        Ok(Screen { _raw: raw })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing put back.
        let _ = show::raw(LEAVE.as_bytes());
    }
}

/// What a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Escape,
    Back,
    Quit,
    Char(char),
}

/// Keys out of what one read gave: an escape alone is the key, with more it is a sequence (ECMA-48 §5.4).
fn keys(mut bytes: &[u8]) -> Vec<Key> {
    let sequences: [(&[u8], Key); 12] = [
        (b"\x1b[A", Key::Up),
        (b"\x1bOA", Key::Up),
        (b"\x1b[B", Key::Down),
        (b"\x1bOB", Key::Down),
        (b"\x1b[5~", Key::PageUp),
        (b"\x1b[6~", Key::PageDown),
        (b"\x1b[H", Key::Home),
        (b"\x1b[1~", Key::Home),
        (b"\x1b[F", Key::End),
        (b"\x1b[4~", Key::End),
        (b"\x1bOH", Key::Home),
        (b"\x1bOF", Key::End),
    ];
    let mut found = Vec::new();
    while let Some((&first, rest)) = bytes.split_first() {
        if let Some((sequence, key)) = sequences.iter().find(|(sequence, _)| bytes.starts_with(sequence)) {
            found.push(*key);
            bytes = &bytes[sequence.len()..];
            continue;
        }
        bytes = rest;
        match first {
            0x1b if rest.first() == Some(&b'[') => {
                // A sequence that means nothing here: to its final octet.
                let end =
                    rest.iter().skip(1).position(|byte| (0x40..=0x7e).contains(byte)).map_or(rest.len(), |at| at + 2);
                bytes = &rest[end..];
            }
            0x1b => found.push(Key::Escape),
            b'\r' | b'\n' => found.push(Key::Enter),
            0x7f | 0x08 => found.push(Key::Back),
            0x03 | 0x04 => found.push(Key::Quit),
            byte if byte.is_ascii_graphic() || byte == b' ' => found.push(Key::Char(char::from(byte))),
            _ => {}
        }
    }
    found
}

/// Acts on a key; `false`: quit.
fn press(chosen: &mut Chosen, known: &Known, key: Key) -> bool {
    if chosen.typing {
        match key {
            Key::Enter => chosen.typing = false,
            Key::Escape => (chosen.typing, chosen.filter) = (false, String::new()),
            Key::Back => drop(chosen.filter.pop()),
            Key::Char(c) => chosen.filter.push(c),
            Key::Quit => return false,
            _ => {}
        }
        return true;
    }
    let go = |chosen: &mut Chosen, by: isize| {
        let rows = sorted(&known.latency.apps, chosen);
        let at = rows.iter().position(|app| Some(&app.name) == chosen.app.as_ref());
        let to = at.map_or(0, |at| at.saturating_add_signed(by).min(rows.len().saturating_sub(1)));
        chosen.app = rows.get(to).map(|app| app.name.clone());
    };
    match key {
        Key::Quit | Key::Char('q') => return false,
        Key::Up | Key::Char('k') => go(chosen, -1),
        Key::Down | Key::Char('j') => go(chosen, 1),
        Key::PageUp => go(chosen, -20),
        Key::PageDown => go(chosen, 20),
        Key::Home => go(chosen, isize::MIN),
        Key::End => go(chosen, isize::MAX),
        Key::Enter => {
            if chosen.app.is_none() {
                go(chosen, 0);
            }
            chosen.detail = chosen.app.is_some();
        }
        Key::Escape | Key::Back if chosen.detail => chosen.detail = false,
        Key::Escape => (chosen.app, chosen.filter) = (None, String::new()),
        Key::Char('s') => chosen.sort = chosen.sort.next(),
        Key::Char('/') => chosen.typing = !chosen.detail,
        Key::Char(' ') => chosen.paused = !chosen.paused,
        Key::Back | Key::Char(_) => {}
    }
    true
}

async fn watch(client: &Client, path: &str) -> Result<(), Error> {
    // Before the screen is taken: an edge that is not there is said in plain words.
    let mut known = Known { latency: parse(client.json(path).await?)?, ..Known::default() };
    let failed = |error: io::Error| Error::Failed(format!("no signal can be waited for: {error}"));
    let mut resized = signal(SignalKind::window_change()).map_err(failed)?;
    let mut ended = signal(SignalKind::terminate()).map_err(failed)?;
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // What is said of it should be seen.
        let _ = show::raw(LEAVE.as_bytes());
        before(panic);
    }));
    let screen = Screen::enter()?;
    let mut pressed = read_keys();
    let mut chosen = Chosen::default();
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    draw(&known, &chosen)?;
    loop {
        tokio::select! {
            bytes = pressed.recv() => {
                // The terminal is gone.
                let Some(bytes) = bytes else { break };
                let was = (chosen.detail, chosen.app.clone());
                if !keys(&bytes).into_iter().all(|key| press(&mut chosen, &known, key)) {
                    break;
                }
                if (chosen.detail, &chosen.app) != (was.0, &was.1) {
                    ask_detail(client, &mut known, &chosen).await;
                }
            }
            _ = every.tick() => {
                if chosen.paused {
                    continue;
                }
                match tokio::time::timeout(ANSWER, client.json(path)).await {
                    Ok(Ok(answer)) => (known.latency, known.trouble) = (parse(answer)?, None),
                    Ok(Err(error)) => known.trouble = Some(error.to_string()),
                    Err(_) => known.trouble = Some("the edge does not answer".to_owned()),
                }
                ask_detail(client, &mut known, &chosen).await;
            }
            _ = resized.recv() => {}
            _ = ended.recv() => break,
        }
        draw(&known, &chosen)?;
    }
    drop(screen);
    Ok(())
}

async fn ask_detail(client: &Client, known: &mut Known, chosen: &Chosen) {
    known.detail = None;
    let Some(app) = chosen.app.as_ref().filter(|_| chosen.detail) else { return };
    match tokio::time::timeout(ANSWER, client.json(&format!("/v1/apps/{app}/latency"))).await {
        Ok(Ok(answer)) => known.detail = parse::<Detail>(answer).ok(),
        Ok(Err(error)) => known.trouble = Some(error.to_string()),
        Err(_) => known.trouble = Some("the edge does not answer".to_owned()),
    }
}

fn draw(known: &Known, chosen: &Chosen) -> Result<(), Error> {
    let (width, height) = terminal::size(io::stdout().as_fd()).unwrap_or((80, 24));
    let (width, height) = (usize::from(width), usize::from(height));
    let colour = Style::of(&io::stdout()).is_coloured();
    // Shown in one piece, where the terminal can (synchronized output, DECSET 2026).
    let mut text = String::from("\x1b[?2026h\x1b[H");
    for (at, line) in screen(known, chosen, width, height).iter().enumerate() {
        if at > 0 {
            text.push_str("\r\n");
        }
        text.push_str(&line.render(width, colour));
        text.push_str("\x1b[K");
    }
    text.push_str("\x1b[J\x1b[?2026l");
    show::raw(text.as_bytes())
}

/// Keys, read on a thread of their own, which ends with the process.
fn read_keys() -> mpsc::Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok(count @ 1..) = io::stdin().lock().read(&mut bytes) {
            if send.blocking_send(bytes[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    receive
}

#[cfg(test)]
mod tests;
