//! The blocks: whom nothing may reach and who may reach nothing, whatever the grants say.

use std::collections::BTreeSet;

use identity::UnixTime;

use super::reader::{Keys, Reader, Spanned, span};
use super::rule::{read_id, read_side};
use super::selector::Side;
use super::window::read_time;
use super::{Fields, Names, Selector};
use crate::GrantRef;
use crate::diagnostic::Diagnostic;

/// One block: quarantine by the policy file. The kill switch is `identity`'s.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub name: GrantRef,
    pub matches: Vec<Spanned<Selector>>,
    pub reason: Option<String>,
    pub until: Option<UnixTime>,
}

impl Block {
    /// Whether it holds at a moment.
    pub fn holds(&self, at: UnixTime) -> bool {
        self.until.is_none_or(|until| at < until)
    }
}

pub(super) fn read(reader: &mut Reader, sections: &Fields<'_>, names: &Names) -> Vec<Block> {
    let (mut blocks, mut ids) = (Vec::new(), BTreeSet::new());
    let Some(section) = sections.get("blocks") else {
        return blocks;
    };
    for (place, object) in reader.objects("blocks", &section.value) {
        let fields = reader.fields(object, &BLOCK);
        let name = match reader.text(&fields, "id") {
            Some(id) => match read_id(reader, id, "blocks", &mut ids) {
                Some(id) => id,
                None => continue,
            },
            None => place,
        };
        let matches = read_side(reader, &fields, object, Side::Either, names);
        if let Some(entry) = matches.iter().find(|entry| entry.value.node().is_none()) {
            let wrong = "a block is about gateways, people and agents".to_owned();
            let wrong = Diagnostic::error("E087", entry.span.clone(), wrong);
            reader.say(wrong.help("to close a resource, take its grants away"));
        }
        let reason = reader.text(&fields, "reason").map(|text| text.value);
        if reason
            .as_ref()
            .is_some_and(|reason| reason.len() > MAX_REASON)
        {
            let message = format!("a reason has at most {MAX_REASON} bytes");
            reader.error("E087", span(object), message);
        }
        let until = reader
            .text(&fields, "until")
            .and_then(|text| read_time(reader, &text));
        blocks.push(Block {
            name: GrantRef(name.into()),
            matches,
            reason,
            until,
        });
        if blocks.len() > MAX_BLOCKS {
            let message = format!("more than {MAX_BLOCKS} blocks");
            reader.error("E005", span(object), message);
            break;
        }
    }
    blocks
}

const BLOCK: Keys = Keys {
    of: "a block",
    known: &["id", "match", "reason", "until"],
    ignored: &[],
};

/// It is shown in refusals.
const MAX_REASON: usize = 200;

/// Each is asked at every verdict.
const MAX_BLOCKS: usize = 1_000;
