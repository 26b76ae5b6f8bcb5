//! `.steadyignore`: the common part of gitignore(5), read from the application's folder alone.
//!
//! A line is a pattern; blank ones and those that begin with `#` are not. `!` in front takes back, the last line that
//! matches decides. `/` in front or inside binds the pattern to the folder's top, otherwise it matches at any depth. `/` at the
//! end means folders only. `*` and `?` stop at `/`; `**` does not. What is inside an ignored folder is never looked at.

use std::path::Path;

#[derive(Debug, Default)]
pub struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    pattern: Vec<u8>,
    take_back: bool,
    folders_only: bool,
    anchored: bool,
}

impl Ignore {
    pub fn parse(text: &str) -> Ignore {
        Ignore { rules: text.lines().filter_map(Rule::parse).collect() }
    }

    /// Whether `path`, relative to the folder, is left out.
    pub fn matches(&self, path: &Path, is_folder: bool) -> bool {
        let Some(text) = path.to_str() else { return false };
        let deciding = self.rules.iter().rev().find(|rule| rule.matches(text, is_folder));
        deciding.is_some_and(|rule| !rule.take_back)
    }
}

impl Rule {
    fn parse(line: &str) -> Option<Rule> {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let (take_back, line) = line.strip_prefix('!').map_or((false, line), |rest| (true, rest));
        let (folders_only, line) = line.strip_suffix('/').map_or((false, line), |rest| (true, rest));
        let anchored = line.contains('/');
        let pattern = line.strip_prefix('/').unwrap_or(line);
        (!pattern.is_empty()).then(|| Rule { pattern: pattern.into(), take_back, folders_only, anchored })
    }

    fn matches(&self, path: &str, is_folder: bool) -> bool {
        if self.folders_only && !is_folder {
            return false;
        }
        let name = if self.anchored { path } else { path.rsplit('/').next().unwrap_or(path) };
        glob(&self.pattern, name.as_bytes())
    }
}

/// `?`, `*` (neither crosses `/`) and `**` (crosses; `**/` also matches nothing at all). Each star multiplies the work by the
/// text's length; the patterns are the user's own.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', b'*', b'/', rest @ ..] => {
            glob(rest, text) || text.iter().enumerate().any(|(at, &byte)| byte == b'/' && glob(rest, &text[at + 1..]))
        }
        [b'*', b'*', rest @ ..] => (0..=text.len()).any(|at| glob(rest, &text[at..])),
        [b'*', rest @ ..] => {
            let end = text.iter().position(|&byte| byte == b'/').unwrap_or(text.len());
            (0..=end).any(|at| glob(rest, &text[at..]))
        }
        [b'?', rest @ ..] => matches!(text, [byte, tail @ ..] if *byte != b'/' && glob(rest, tail)),
        [b'\\', literal, rest @ ..] | [literal, rest @ ..] => {
            matches!(text, [byte, tail @ ..] if byte == literal && glob(rest, tail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignored(rules: &str, path: &str) -> bool {
        let (path, is_folder) = path.strip_suffix('/').map_or((path, false), |path| (path, true));
        Ignore::parse(rules).matches(Path::new(path), is_folder)
    }

    #[test]
    fn a_bare_name_matches_at_any_depth_and_one_with_a_slash_only_from_the_top() {
        assert!(ignored("dist", "dist") && ignored("dist", "a/b/dist"));
        assert!(ignored("/dist", "dist") && !ignored("/dist", "a/dist"));
        assert!(ignored("a/b", "a/b") && !ignored("a/b", "x/a/b"));
    }

    #[test]
    fn a_slash_at_the_end_means_folders_only() {
        assert!(ignored("tmp/", "tmp/") && ignored("tmp/", "a/tmp/") && !ignored("tmp/", "tmp"));
    }

    #[test]
    fn stars_stop_at_a_slash_unless_doubled() {
        assert!(ignored("*.log", "a/x.log") && !ignored("a/*.log", "a/b/x.log"));
        assert!(ignored("a/**/x", "a/x") && ignored("a/**/x", "a/b/c/x") && ignored("**/x", "x"));
        assert!(ignored("a/**", "a/b/c") && !ignored("a/**", "b/a"));
        assert!(ignored("?", "a") && !ignored("a?b", "a/b"));
    }

    #[test]
    fn the_last_matching_line_decides() {
        assert!(!ignored("*.env\n!keep.env", "keep.env") && ignored("!keep.env\n*.env", "keep.env"));
        assert!(!ignored("# *\n\n", "x"));
    }

    #[test]
    fn a_backslash_takes_the_next_character_as_it_is() {
        assert!(ignored("a\\*", "a*") && !ignored("a\\*", "ab") && ignored("\\#x", "#x"));
    }
}
