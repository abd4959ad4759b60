// SPDX-License-Identifier: Apache-2.0

package view

import (
	"encoding/json"
	"io"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/advice"
	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/timewait"
)

// The document of timewait -o json, described in docs/json.md.
type timeWaitDocument struct {
	Time        string       `json:"time"`
	Kernel      string       `json:"kernel"`
	Arch        string       `json:"arch"`
	Live        int          `json:"live"`
	Halfway     int          `json:"fin_wait2"`
	MiniBytes   *int         `json:"mini_socket_bytes"`
	Bytes       *int         `json:"bytes"`
	Spaces      []spaceJSON  `json:"netns"`
	Unreachable int          `json:"unreachable"`
	Sample      *int64       `json:"sample_ns"`
	BySide      *bySide      `json:"by_side"`
	ByCause     countsByName `json:"by_cause"`
	HZ          *int         `json:"hz"`
	Nominal     *int64       `json:"nominal_ns"`
	PredictMin  *int64       `json:"predicted_min_ns"`
	PredictMax  *int64       `json:"predicted_max_ns"`
	lengthsJSON
	CutShort    *lengthsJSON    `json:"cut_short"`
	Life        *int64          `json:"life_p50_ns"`
	Exchanges   *uint64         `json:"exchanges_p50"`
	ClosedFirst *uint64         `json:"closed_first"`
	Restarts    *restartsJSON   `json:"restarts"`
	Each        []timeWaitEnd   `json:"samples"`
	EachLost    *uint64         `json:"samples_left_out"`
	Lost        *event.Lost     `json:"lost"`
	Heap        *uint64         `json:"heap_bytes"`
	MapMemory   *uint64         `json:"bpf_map_bytes"`
	Records     *uint64         `json:"ring_records"`
	Advice      []advice.Advice `json:"advice"`
}

// lengthsJSON is about those that ended by their timer, or by something else.
type lengthsJSON struct {
	Count     uint64    `json:"count"`
	AtLeast   uint64    `json:"at_least"`
	Quality   string    `json:"quality"`
	Min       *int64    `json:"min_ns"`
	P50       *int64    `json:"p50_ns"`
	P99       *int64    `json:"p99_ns"`
	Max       *int64    `json:"max_ns"`
	Histogram []binJSON `json:"histogram"`
}

type binJSON struct {
	Low     int64  `json:"ge_ns"`
	High    int64  `json:"lt_ns"`
	Exact   uint64 `json:"exact"`
	AtLeast uint64 `json:"at_least"`
}

type bySide struct {
	Connect uint64 `json:"connect"`
	Accept  uint64 `json:"accept"`
	Unknown uint64 `json:"unknown"`
}

type countsByName map[string]uint64

type restartsJSON struct {
	Sockets  uint64 `json:"sockets"`
	Restarts uint64 `json:"restarts"`
	Unknown  uint64 `json:"unknown"`
}

type spaceJSON struct {
	NetNS      uint32       `json:"netns"`
	Own        bool         `json:"own"`
	Live       int          `json:"live"`
	LiveBefore *int         `json:"live_before"`
	Halfway    int          `json:"fin_wait2"`
	Max        *int         `json:"max_tw_buckets"`
	LiveBySide bySide       `json:"live_by_side"` // inferred
	LivePeers  []peerOfTW   `json:"live_peers"`
	Overflows  *int64       `json:"overflows_total"`
	Overflowed *uint64      `json:"overflows"`
	Flow       *flowJSON    `json:"flow"`
	ByCause    countsByName `json:"by_cause"`
	Halfways   countsByName `json:"fin_wait2_by_cause"`
	Makers     []makerJSON  `json:"makers"`
	Peers      []peerOfTW   `json:"peers"`
	LeftOut    *leftOutJSON `json:"left_out"`
}

type flowJSON struct {
	Entered uint64   `json:"entered"`
	Ended   uint64   `json:"ended"`
	In      float64  `json:"in_per_s"`
	Out     float64  `json:"out_per_s"`
	Trend   string   `json:"trend"`
	Settles *float64 `json:"settles_at"`
	BySide  bySide   `json:"by_side"`
	Unseen  *int64   `json:"unseen"`
}

type makerJSON struct {
	PID       *uint32    `json:"pid"`
	StartNS   *int64     `json:"start_ns"`
	Comm      *string    `json:"comm"`
	Unit      *string    `json:"unit"`
	Container *container `json:"container"`
	Side      *string    `json:"side"`
	Count     uint64     `json:"count"`
}

type peerOfTW struct {
	Side   *string `json:"side"`
	Remote string  `json:"remote"`
	Port   uint16  `json:"port"`
	Count  uint64  `json:"count"`
}

type leftOutJSON struct {
	Makers uint64 `json:"makers"`
	Peers  uint64 `json:"peers"`
}

type timeWaitEnd struct {
	NetNS    uint32  `json:"netns"`
	Cookie   *uint64 `json:"cookie"`
	Local    string  `json:"local"`
	Remote   string  `json:"remote"`
	Side     *string `json:"side"`
	PID      *uint32 `json:"pid"`
	Comm     *string `json:"comm"`
	Cause    string  `json:"cause"`
	Restarts *uint16 `json:"restarts"`
	Measured *int64  `json:"measured_ns"`
	AtLeast  *int64  `json:"measured_min_ns"`
	EndMono  int64   `json:"end_mono_ns"`
}

// peersInDocument is how many peers of a netns a document has: 100,000 clients are possible.
const peersInDocument = 1000

// WriteTimeWaitJSON writes the report as one document on one line.
func WriteTimeWaitJSON(w io.Writer, r *TimeWaits, at time.Time) error {
	doc := timeWaitDocument{Time: at.UTC().Format(time.RFC3339Nano), Unreachable: r.Now.Unreachable, Spaces: []spaceJSON{}, Advice: adviceJSON(r.Advice)}
	doc.Kernel, doc.Arch = Kernel()
	doc.Live, doc.Halfway = r.Now.Live()
	if n := r.Now.MiniBytes; n > 0 {
		doc.MiniBytes, doc.Bytes = &n, some(n*(doc.Live+doc.Halfway), true)
	}
	for i := range r.Now.Spaces {
		doc.Spaces = append(doc.Spaces, spaceInJSON(r, &r.Now.Spaces[i]))
	}
	if s := r.Sample; s != nil {
		var sum event.Tally // of those too whose netns is no more
		for _, t := range s.Counts.Tallies {
			sum.Add(t)
		}
		s.intoDocument(&doc, &sum)
	}
	return json.NewEncoder(w).Encode(doc)
}

// Kernel names the running one: release and machine, as uname tells them.
func Kernel() (release, machine string) {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "", ""
	}
	return unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])
}

func (s *TimeWaitSample) intoDocument(doc *timeWaitDocument, sum *event.Tally) {
	doc.Sample = some(int64(s.Took), true)
	doc.BySide, doc.ByCause = some(sidesJSON(sum.Entered[:]), true), byCause(sum.Ended[:])
	doc.HZ = some(int(time.Second/s.Wheel.Tick), true)
	if s.Length > 0 {
		doc.Nominal = some(int64(s.Length), true)
		doc.PredictMin, doc.PredictMax = some(int64(s.Length), true), some(int64(s.Length+s.Wheel.Bucket(s.Length)), true)
	}
	doc.lengthsJSON = lengthsInJSON(s.Counts, event.ExpiredExact, event.ExpiredBound)
	doc.CutShort = some(lengthsInJSON(s.Counts, event.CutExact, event.CutBound), true)
	lives, exchanges := &s.Counts.Histograms[event.Lives], &s.Counts.Histograms[event.Exchanges]
	doc.Life = some(int64(timewait.Quantile(lives, 0.5))*1000, lives.Count > 0)
	doc.Exchanges = some(timewait.Quantile(exchanges, 0.5), exchanges.Count > 0)
	doc.ClosedFirst = &exchanges.Count
	doc.Restarts = &restartsJSON{sum.Restarted, sum.Restarts, sum.RestartsUnknown}
	doc.Lost, doc.Heap, doc.MapMemory, doc.Records = &s.Lost, &s.Heap, &s.MapMemory, &s.Records
	if s.Each != nil {
		doc.Each, doc.EachLost = []timeWaitEnd{}, &s.EachLost
		for i := range s.Each {
			doc.Each = append(doc.Each, endInJSON(&s.Each[i]))
		}
	}
}

func spaceInJSON(r *TimeWaits, s *timewait.Space) spaceJSON {
	out := spaceJSON{
		NetNS: s.NetNS, Own: s.Path == "", Live: s.Live, Halfway: s.Halfway,
		Max: some(s.Max, s.Max >= 0), Overflows: some(s.Overflows, s.Overflows >= 0),
		LiveBySide: bySide{uint64(s.Sides[event.SideConnect]), uint64(s.Sides[event.SideAccept]), uint64(s.Sides[event.SideUnknown])},
		LivePeers:  peersInJSON(s.Peers), ByCause: countsByName{}, Halfways: countsByName{}, Makers: []makerJSON{}, Peers: []peerOfTW{},
	}
	if r.Sample == nil {
		return out
	}
	tally := r.Sample.Counts.Tallies[s.NetNS]
	if tally == nil {
		tally = &event.Tally{}
	}
	f := r.Sample.flow(tally, s)
	out.Flow = &flowJSON{
		timewait.Sum(tally.Entered[:]), timewait.Sum(tally.Ended[:]), f.In, f.Out, f.Trend.String(),
		some(f.Settles, r.Sample.Length > 0 && f.Settles >= 0), sidesJSON(tally.Entered[:]), nil,
	}
	if before := r.Before.Space(s.NetNS); before != nil {
		out.LiveBefore = &before.Live
		out.Overflowed = some(r.Before.Overflowed(r.Now, s.NetNS), before.Overflows >= 0 && s.Overflows >= 0)
		out.Flow.Unseen = some(unseen(r, tally, s), true)
	}
	out.ByCause, out.Halfways = byCause(tally.Ended[:]), byCause(tally.HalfwayEnded[:])
	out.LeftOut = &leftOutJSON{tally.MakersLeftOut, tally.PeersLeftOut}
	out.Peers = peersInJSON(peersIn(r.Sample.Counts, s.NetNS))
	for _, m := range makersIn(r.Sample.Counts, s.NetNS) {
		out.Makers = append(out.Makers, makerInJSON(r.Sample, &m))
	}
	return out
}

func makerInJSON(s *TimeWaitSample, m *event.Maker) makerJSON {
	out := makerJSON{Side: sideName(m.Side), Count: m.Count}
	if m.PID == 0 {
		return out
	}
	out.PID, out.StartNS, out.Comm = &m.PID, some(int64(m.Start), true), some(m.Comm.String(), true)
	if p := s.Processes[m.PID]; p != nil {
		out.Unit, out.Container = some(p.Unit, p.Unit != ""), containerJSON(p.Container)
	}
	return out
}

func peersInJSON(peers []event.Peer) []peerOfTW {
	out := []peerOfTW{}
	for i, p := range peers {
		if i == peersInDocument {
			break
		}
		out = append(out, peerOfTW{sideName(p.Side), p.Remote.String(), p.Port, p.Count})
	}
	return out
}

func sideName(s event.Side) *string {
	switch s {
	case event.SideConnect:
		return some("connect", true)
	case event.SideAccept:
		return some("accept", true)
	}
	return nil
}

func sidesJSON(n []uint64) bySide {
	return bySide{n[event.SideConnect], n[event.SideAccept], n[event.SideUnknown]}
}

func byCause(counts []uint64) countsByName {
	out := countsByName{}
	for c, n := range counts {
		if n > 0 {
			out[event.Cause(c).String()] = n
		}
	}
	return out
}

func lengthsInJSON(c *event.Counts, exact, bound event.Measure) lengthsJSON {
	h, quality := lengthsOf(c, exact, bound)
	out := lengthsJSON{Count: h.Count, AtLeast: c.Histograms[bound].Count, Quality: quality, Histogram: []binJSON{}}
	if h.Count == 0 {
		out.Quality = "unknown"
		return out
	}
	ns := func(micros uint64) *int64 { return some(int64(micros)*1000, true) }
	out.Min, out.Max = ns(h.Least), ns(h.Most)
	out.P50, out.P99 = ns(timewait.Quantile(h, 0.5)), ns(timewait.Quantile(h, 0.99))
	for slot, n := range h.Slots {
		if n > 0 {
			out.Histogram = append(out.Histogram, binJSON{
				int64(event.SlotFloor(slot)) * 1000, int64(event.SlotFloor(slot+1)) * 1000,
				c.Histograms[exact].Slots[slot], c.Histograms[bound].Slots[slot],
			})
		}
	}
	return out
}

func endInJSON(ch *conn.Change) timeWaitEnd {
	return timeWaitEnd{
		NetNS: ch.NetNS, Cookie: some(ch.Cookie, ch.Cookie != 0), Local: addrText(ch.Tuple.Local), Remote: addrText(ch.Tuple.Remote), Side: sideName(ch.Side),
		PID: some(ch.Owner.PID, ch.Owner.PID != 0), Comm: some(ch.Owner.Comm.String(), ch.Owner.PID != 0),
		Cause: ch.Cause.String(), Restarts: some(ch.Restarts, ch.Restarts != event.RestartsUnknown),
		Measured: some(int64(ch.InState.D), ch.InState.Quality == conn.Exact),
		AtLeast:  some(int64(ch.InState.D), ch.InState.Quality == conn.AtLeast), EndMono: int64(ch.Mono),
	}
}

func addrText(a netip.AddrPort) string { return string(a.AppendTo(nil)) }
