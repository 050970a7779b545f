//! Header blocks one after the other through one decoder: whatever is read stays within the bound,
//! and is read alike when we write it.

use hbone::h2::hpack::{Decoder, encode};

/// Input: blocks with 0xff between them.
pub fn holds(input: &[u8]) {
    const BOUND: usize = 4096;
    let mut decoder = Decoder::default();
    for (index, block) in input.split(|byte| *byte == 0xff).enumerate() {
        if index == 8 {
            decoder.forbid_table();
        }
        let Ok(fields) = decoder.decode(block, BOUND) else {
            return;
        };
        let size: usize = fields.iter().map(|field| field.size()).sum();
        assert!(size <= BOUND, "{size}");
        let text: Option<Vec<(&str, &str)>> = fields
            .iter()
            .map(|f| {
                Some((
                    str::from_utf8(&f.name).ok()?,
                    str::from_utf8(&f.value).ok()?,
                ))
            })
            .collect();
        if let Some(text) = text {
            let mut ours = Vec::new();
            encode(text, &mut ours);
            assert_eq!(
                Decoder::default().decode(&ours, BOUND).as_ref(),
                Ok(&fields)
            );
        }
    }
}
