// SPDX-License-Identifier: Apache-2.0

package site

// maxBook is for how many sockets a Book knows the place at most.
const maxBook = 1 << 20

// Book keeps where sockets were made, by cookie, for as long as they live: in TIME_WAIT
// the cookie is the same. Not for concurrent use.
type Book struct {
	sites   map[uint64]*Site
	refused uint64
}

// NewBook makes an empty one.
func NewBook() *Book { return &Book{sites: make(map[uint64]*Site)} }

// Put notes where a socket was made, or, with nil, that it is gone. What was unwound stays:
// frame pointers know less.
func (b *Book) Put(cookie uint64, s *Site) {
	old, known := b.sites[cookie]
	switch {
	case s == nil:
		delete(b.sites, cookie)
	case known && old.How == ByUnwinding && s.How != ByUnwinding && old.PID == s.PID:
	case !known && len(b.sites) >= maxBook:
		b.refused++
	default:
		b.sites[cookie] = s
	}
}

// Get gives the place, nil if it is not known. A nil Book knows none.
func (b *Book) Get(cookie uint64) *Site {
	if b == nil {
		return nil
	}
	return b.sites[cookie]
}

// Each calls fn with all that is known, in no order.
func (b *Book) Each(fn func(cookie uint64, s *Site)) {
	for cookie, s := range b.sites {
		fn(cookie, s)
	}
}

// Len is how many sockets are known.
func (b *Book) Len() int { return len(b.sites) }

// Refused counts the sockets that there was no room for.
func (b *Book) Refused() uint64 { return b.refused }
