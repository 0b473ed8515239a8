//! Arrays in pages, so that versions share what one does not change.
//!
//! In come elements, alone or in runs; out go numbers, by which elements are read. What must hold:
//! a run lies whole in one page; a page that another version has too is copied before it is
//! written, so a clone costs a pointer for each page and a change one page.

use std::sync::Arc;

/// Elements by number, `PAGE` to a page.
#[derive(Clone, Debug)]
pub(super) struct Paged<T, const PAGE: usize> {
    pages: Vec<Arc<[T]>>,
    /// The number that comes next.
    next: usize,
}

impl<T, const PAGE: usize> Default for Paged<T, PAGE> {
    fn default() -> Self {
        Self {
            pages: Vec::new(),
            next: 0,
        }
    }
}

impl<T: Clone, const PAGE: usize> Paged<T, PAGE> {
    /// Numbered in order, from 0.
    pub(super) fn new(elements: &[T]) -> Self {
        Self {
            pages: elements.chunks(PAGE).map(Arc::from).collect(),
            next: elements.len(),
        }
    }

    /// The element, and those behind it in its page.
    #[inline(always)]
    pub(super) fn from(&self, number: u32) -> &[T] {
        let number = number as usize;
        &self.pages[number / PAGE][number % PAGE..]
    }

    #[inline(always)]
    pub(super) fn get(&self, number: u32) -> &T {
        let number = number as usize;
        &self.pages[number / PAGE][number % PAGE]
    }

    /// Copies the page if another version has it too.
    pub(super) fn get_mut(&mut self, number: u32) -> &mut T {
        let number = number as usize;
        &mut Arc::make_mut(&mut self.pages[number / PAGE])[number % PAGE]
    }

    /// Changes every element.
    pub(super) fn change(&mut self, change: impl Fn(&mut T)) {
        for page in &mut self.pages {
            Arc::make_mut(page).iter_mut().for_each(&change);
        }
    }

    /// Adds elements whose numbers follow each other, and gives the first one's. Numbers that
    /// would lie across pages are left out; elements of a run longer than a page are read from its
    /// first number only.
    pub(super) fn push(&mut self, run: &[T]) -> u32 {
        if self.next % PAGE + run.len() > PAGE {
            self.next = self.next.next_multiple_of(PAGE);
        }
        let (first, offset) = (self.next, self.next % PAGE);
        let end = offset + run.len();
        match self.pages.get_mut(first / PAGE) {
            None => self.pages.push(run.into()),
            Some(page) if page.len() < end => {
                let mut larger = page[..offset].to_vec();
                larger.extend_from_slice(run);
                // Room to grow into, filled with what is read nowhere.
                let fill = run.last().or(page.last()).cloned();
                larger.extend(
                    fill.into_iter()
                        .cycle()
                        .take(end.min(PAGE.saturating_sub(end))),
                );
                *page = larger.into();
            }
            Some(page) => Arc::make_mut(page)[offset..end].clone_from_slice(run),
        }
        self.next += run.len();
        if end > PAGE {
            self.next = self.next.next_multiple_of(PAGE);
            let empty: Arc<[T]> = Arc::new([]);
            self.pages.resize(self.next / PAGE, empty);
        }
        first as u32
    }

    /// Gives back the room that the last page was to grow into.
    pub(super) fn shrink(&mut self) {
        let end = self.next % PAGE;
        if let Some(page) = self.pages.get_mut(self.next / PAGE) {
            *page = page[..end].into();
        }
    }

    /// All elements, and such as fill pages up and are equal to one.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pages.iter().flat_map(|page| page.iter())
    }

    /// How many numbers were given.
    pub(super) fn len(&self) -> usize {
        self.next
    }

    /// Bytes on the heap, pages that `other` has too left out.
    pub(super) fn bytes_beside(&self, other: Option<&Self>) -> usize {
        let shared = |number: usize, page: &Arc<[T]>| {
            let same = other.and_then(|other| other.pages.get(number));
            same.is_some_and(|same| Arc::ptr_eq(same, page))
        };
        let own = self.pages.iter().enumerate();
        let own = own.filter(|(number, page)| !shared(*number, page));
        own.map(|(_, page)| size_of_val(&**page)).sum::<usize>()
            + size_of_val(self.pages.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_read_from_their_first_number() {
        let mut paged = Paged::<u32, 8>::default();
        let mut runs = Vec::new();
        for number in 0..200_u32 {
            let length = [1, 3, 8, 2, 5, 20, 1][number as usize % 7];
            let run: Vec<u32> = (0..length).map(|index| number * 100 + index).collect();
            runs.push((paged.push(&run), run));
            if number == 100 {
                paged.shrink();
            }
        }
        for (first, run) in runs {
            assert_eq!(&paged.from(first)[..run.len()], run);
        }
    }

    #[test]
    fn a_version_is_not_changed_by_the_next() {
        let first = Paged::<u32, 8>::new(&(0..20).collect::<Vec<_>>());
        let mut second = first.clone();
        *second.get_mut(9) = 100;
        assert_eq!(second.push(&[7, 7]), 20);
        assert_eq!((first.get(9), second.get(9)), (&9, &100));
        assert_eq!(first.len(), 20);
        let own = second.bytes_beside(Some(&first)) - size_of_val(second.pages.as_slice());
        let all = second.bytes_beside(None) - size_of_val(second.pages.as_slice());
        assert_eq!((own, all), (64, 96), "the first page of three is shared");
    }
}
