//! Packed layouts: every pair has one row, in order; labels; the transposed index.

use docre::layout::{Grid, Labels, Pairs, Segments, Sources, Tables};

#[test]
fn pairs_are_numbered_by_a_then_b() {
    let entities = [0, 1, 3, 42, 0, 2];
    for pad in [0, 42] {
        let grid = Grid::new(&entities, pad);
        let mut next = 0;
        for (d, &n) in entities.iter().enumerate() {
            for (a, b) in (0..n).flat_map(|a| (a..n).map(move |b| (a, b))) {
                assert_eq!([grid.pair(d, a, b), grid.pair(d, b, a)], [Some(next); 2]);
                next += 1;
            }
            for i in 0..=n {
                assert_eq!([grid.pair(d, i, n), grid.pair(d, n, i)], [None; 2]);
            }
        }
        assert_eq!(next, grid.pairs.rows());
    }
}

#[test]
fn tables_have_a_pad_index_only_below_the_pad_size() {
    let tables = Tables::padded(&[0, 1, 41, 42, 43], 42);
    assert_eq!(tables.repeat, [42, 41, 1, 0, 0]);
    assert_eq!(tables.side, [1, 2, 42, 42, 43]);
    assert_eq!((0..5).map(|d| tables.entities(d)).collect::<Vec<_>>(), [0, 1, 41, 42, 43]);
    assert_eq!(tables.cells.rows(), 1 + 4 + 2 * 42 * 42 + 43 * 43);
    assert_eq!(Tables::exact(&[2, 3]).cells.starts, [0, 4, 13]);
}

#[test]
fn labels_hold_any_number_of_classes() {
    for classes in [1, 2, 64, 65, 97, 129] {
        let mut labels = Labels::new(3, classes);
        labels.set(1, classes - 1);
        labels.evidence = vec![(1, 7)];
        let set: Vec<_> =
            (0..3).flat_map(|c| (0..classes).map(move |r| (c, r))).filter(|&(c, r)| labels.get(c, r)).collect();
        assert_eq!(set, [(1, classes - 1)]);
        let mut both = labels.clone();
        both.append(&labels);
        assert!(both.cells() == 6 && both.get(4, classes - 1) && both.evidence == [(1, 7), (4, 7)]);
    }
}

#[test]
fn cells_are_left_out_whatever_their_classes() {
    for classes in [1, 2, 64, 65, 130] {
        let mut labels = Labels::new(4, classes);
        (1..classes).for_each(|class| labels.set(1, class));
        labels.set(2, classes - 1);
        labels.leave_out(1);
        labels.leave_out(3);
        let left_out: Vec<bool> = (0..4).map(|cell| labels.is_left_out(cell)).collect();
        // The only class of an inventory of one is the threshold: its bit is that of a cell that is left out.
        assert_eq!(left_out, [false, true, classes == 1, true], "{classes}");
        let relations: Vec<usize> = (0..4).map(|cell| labels.relations(cell)).collect();
        assert_eq!(relations, [0, classes - 1, usize::from(classes > 1), 0], "{classes}");
    }
}

#[test]
fn pairs_are_all_or_some_with_a_direction_or_without() {
    let all = Pairs::default();
    assert!(all.contains(3, 1) && all.canonical(3, 1) == (3, 1) && all.candidates().is_none());
    assert_eq!((all.count(0), all.count(1), all.count(4)), (0, 0, 12));
    let undirected = Pairs::undirected();
    assert!(undirected.contains(3, 1) && undirected.canonical(3, 1) == (1, 3) && undirected.count(4) == 6);
    let some = Pairs::only(vec![(2, 0), (1, 1), (0, 1), (2, 0)], false);
    assert_eq!(some.candidates(), Some([(0, 1), (1, 1), (2, 0)].as_slice()));
    assert!(some.contains(2, 0) && !some.contains(0, 2) && some.count(9) == 2);
    let both = Pairs::only(vec![(2, 0), (0, 2), (0, 1)], true);
    assert_eq!(both.candidates(), Some([(0, 1), (0, 2), (1, 0), (2, 0)].as_slice()));
    assert!(both.contains(0, 2) && both.count(9) == 2 && both.canonical(2, 0) == (0, 2));
    assert!(!Pairs::only(Vec::new(), false).contains(0, 1), "no candidate is not every pair");
}

#[test]
fn transposed_sources() {
    let sources = Sources {
        rows: Segments::from_lengths([2, 0, 3]),
        index: vec![3, 0, 0, 3, 3],
        weight: vec![1.0, 2.0, 3.0, 4.0, 5.0],
    };
    let back = sources.transposed(5);
    assert_eq!(back.rows.starts, [0, 2, 2, 2, 5, 5]);
    assert_eq!((back.index, back.weight), (vec![0, 2, 0, 2, 2], vec![2.0, 3.0, 1.0, 4.0, 5.0]));
    assert!(sources.check("test", 3).is_err() && sources.check("test", 4).is_ok());
}
