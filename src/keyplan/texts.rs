//! Many short texts in one allocation: a hash has dozens of fields, every event.

/// Texts of any bytes, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts {
    bytes: Vec<u8>,
    /// Where each ends in `bytes`.
    ends: Vec<usize>,
}

impl Texts {
    /// Room for so many texts and bytes.
    pub fn with_capacity(texts: usize, bytes: usize) -> Texts {
        Texts { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(texts) }
    }

    /// Adds a text.
    pub fn push(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
        self.ends.push(self.bytes.len());
    }

    /// Adds all texts of `other`.
    pub fn append(&mut self, other: &Texts) {
        other.iter().for_each(|text| self.push(text));
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Each text.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let text = self.bytes.get(start..*end).unwrap_or_default();
            start = *end;
            text
        })
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for Texts {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Texts {
        let mut all = Texts::default();
        texts.into_iter().for_each(|text| all.push(text.as_ref()));
        all
    }
}

/// Names of fields and their values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pairs(Texts);

impl Pairs {
    /// Room for so many pairs and bytes.
    pub fn with_capacity(pairs: usize, bytes: usize) -> Pairs {
        Pairs(Texts::with_capacity(2 * pairs, bytes))
    }

    /// Adds a pair.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        self.0.push(name);
        self.0.push(value);
    }

    /// Adds all pairs of `other`.
    pub fn append(&mut self, other: &Pairs) {
        self.0.append(&other.0);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len() / 2
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each name with its value.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut texts = self.0.iter();
        std::iter::from_fn(move || Some((texts.next()?, texts.next()?)))
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for Pairs {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Pairs {
        let mut all = Pairs::default();
        pairs.into_iter().for_each(|(name, value)| all.push(name.as_ref(), value.as_ref()));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_out_as_they_went_in() {
        let texts: Texts = ["a", "", "ünï", "\0"].into_iter().collect();
        assert_eq!(texts.len(), 4);
        assert!(texts.iter().eq(["a".as_bytes(), b"", "ünï".as_bytes(), b"\0"]));
        let mut pairs: Pairs = [("name", "value"), ("", "")].into_iter().collect();
        pairs.append(&[("later", "")].into_iter().collect());
        let expected: [(&[u8], &[u8]); 3] = [(b"name", b"value"), (b"", b""), (b"later", b"")];
        assert!(pairs.iter().eq(expected) && pairs.len() == 3);
        assert!(Pairs::default().is_empty() && Pairs::default().iter().next().is_none());
    }
}
