//! YAML as a tree that knows where in the text each part stands. Knows nothing of Kubernetes.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

/// Deepest nesting that is read. Kubernetes' own schemas stay below 30.
const MAX_DEPTH: usize = 100;

/// Bytes of the text: from the first to before the last.
pub(super) type Bytes = std::ops::Range<usize>;

/// A part of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// A text, a number, anything without parts.
    Scalar {
        /// Its content.
        text: String,
        /// Where it stands, with its quotes, and with its anchor and tag if it has them.
        at: Bytes,
        /// Whether it has neither quotes nor anchor nor tag.
        plain: bool,
    },
    /// Keys and values, in their order.
    Map(Vec<(Node, Node)>),
    /// Items, in their order.
    List(Vec<Node>),
    /// A reference to an anchor: what it means stands elsewhere.
    Alias,
}

/// Why a text is no YAML.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub(super) struct YamlError {
    line: usize,
    reason: String,
}

impl Node {
    /// The value of a key of a map.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entries()
            .find_map(|(name, value)| (name.text() == Some(key)).then_some(value))
    }

    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Node::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The text of a scalar that is the value of a key.
    pub(super) fn text_of(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Node::text)
    }

    /// Items; none when it is no list.
    pub(super) fn items(&self) -> &[Node] {
        match self {
            Node::List(items) => items,
            _ => &[],
        }
    }

    /// Items of the list that is the value of a key.
    pub(super) fn items_of(&self, key: &str) -> &[Node] {
        self.get(key).map(Node::items).unwrap_or_default()
    }

    /// Keys and values; none when it is no map.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&Node, &Node)> {
        let entries = match self {
            Node::Map(entries) => &entries[..],
            _ => &[],
        };
        entries.iter().map(|(key, value)| (key, value))
    }
}

/// The documents of a text.
///
/// # Errors
/// It is no YAML, or nested too deep.
pub(super) fn documents(text: &str) -> Result<Vec<Node>, YamlError> {
    let starts: Vec<usize> = text
        .char_indices()
        .map(|(at, _)| at)
        .chain([text.len()])
        .collect();
    let mut builder = Builder {
        starts,
        open: Vec::new(),
        done: Vec::new(),
    };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| wrong(&error))?;
        builder.take(event, span)?;
    }
    Ok(builder.done)
}

fn wrong(error: &ScanError) -> YamlError {
    YamlError {
        line: error.marker().line(),
        reason: error.info().to_owned(),
    }
}

/// A map or list whose end has not come yet.
enum Open {
    Map(Vec<(Node, Node)>, Option<Node>),
    List(Vec<Node>),
}

struct Builder {
    /// Byte that each character starts on; the parser counts characters.
    starts: Vec<usize>,
    open: Vec<Open>,
    done: Vec<Node>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), YamlError> {
        let node = match event {
            Event::Scalar(text, style, anchor, tag) => Node::Scalar {
                text: text.into_owned(),
                at: self.byte(span.start.index())..self.byte(span.end.index()),
                plain: style == ScalarStyle::Plain && anchor == 0 && tag.is_none(),
            },
            Event::Alias(_) => Node::Alias,
            Event::MappingStart(..) => return self.begin(Open::Map(Vec::new(), None), span),
            Event::SequenceStart(..) => return self.begin(Open::List(Vec::new()), span),
            Event::MappingEnd | Event::SequenceEnd => match self.open.pop() {
                Some(Open::Map(entries, _)) => Node::Map(entries),
                Some(Open::List(items)) => Node::List(items),
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        match self.open.last_mut() {
            None => self.done.push(node),
            Some(Open::List(items)) => items.push(node),
            Some(Open::Map(entries, key)) => match key.take() {
                None => *key = Some(node),
                Some(key) => entries.push((key, node)),
            },
        }
        Ok(())
    }

    fn begin(&mut self, open: Open, span: Span) -> Result<(), YamlError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(YamlError {
                line: span.start.line(),
                reason: format!("nested deeper than {MAX_DEPTH}"),
            });
        }
        self.open.push(open);
        Ok(())
    }

    fn byte(&self, character: usize) -> usize {
        let last = self.starts.len() - 1;
        self.starts[character.min(last)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scalar_stands_where_the_tree_says() {
        let text = "# ä\na: {b: 'c', \"d\": 7} # e\nf:\n- g\n- 1_000\n---\nh: &i 5\nj: *i\n";
        let documents = documents(text).unwrap();
        let mut seen = Vec::new();
        let mut all: Vec<&Node> = documents.iter().collect();
        while let Some(node) = all.pop() {
            match node {
                Node::Scalar { text: own, at, .. } => seen.push((own.as_str(), &text[at.clone()])),
                Node::Map(entries) => all.extend(entries.iter().flat_map(|(k, v)| [v, k])),
                Node::List(items) => all.extend(items),
                Node::Alias => {}
            }
        }
        seen.sort_unstable();
        let quoted = [("c", "'c'"), ("d", "\"d\""), ("5", "&i 5")];
        for (text, written) in seen {
            let wanted = quoted.iter().find(|(own, _)| *own == text);
            assert_eq!(written, wanted.map_or(text, |(_, written)| *written));
        }
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[1].get("j"), Some(&Node::Alias));
    }

    #[test]
    fn what_is_no_yaml_is_an_error_with_its_line() {
        let error = documents("a: b\nc: [d\ne: f\n").unwrap_err();
        assert!(error.line >= 2, "{error}");
        let deep = "[".repeat(MAX_DEPTH + 1);
        assert!(documents(&deep).is_err());
    }
}
