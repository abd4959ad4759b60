// SPDX-License-Identifier: Apache-2.0

package view

import (
	"encoding/json"
	"io"
	"time"

	"afterfin/internal/advice"
	"afterfin/internal/event"
	"afterfin/internal/leak"
	"afterfin/internal/owner"
)

// The document of leaks -o json, described in docs/json.md.
type leaksDocument struct {
	Time       string          `json:"time"`
	State      string          `json:"state"`
	OlderThan  int64           `json:"older_than_ns"`
	Leaks      []leakGroup     `json:"leaks"`
	Younger    int             `json:"younger"`
	Ignored    int             `json:"ignored"`
	UnclearFDs int             `json:"unclear_fds"`
	NetNS      int             `json:"netns_seen"`
	Unreached  int             `json:"unreachable"`
	Unreadable int             `json:"unreadable"`
	LastAck    int             `json:"last_ack"`
	Orphans    *int            `json:"orphans"`
	MaxOrphans *int            `json:"max_orphans"`
	Advice     []advice.Advice `json:"advice"`
	Lost       *event.Lost     `json:"lost"` // null: nothing was followed
}

type leakGroup struct {
	PID         *int         `json:"pid"`
	StartNS     *int64       `json:"start_ns"`
	PPID        *int         `json:"ppid"`
	Comm        *string      `json:"comm"`
	Cmdline     []string     `json:"cmdline"`
	UID         *uint32      `json:"uid"`
	User        *string      `json:"user"`
	Unit        *string      `json:"unit"`
	Container   *container   `json:"container"`
	Count       int          `json:"count"`
	DeadFDs     int          `json:"dead_fds"`
	Growth      float64      `json:"growth_per_min"`
	GrowthKnown string       `json:"growth_known"`
	Oldest      *int64       `json:"oldest_ns"`
	OldestMin   *int64       `json:"oldest_min_ns"`
	OldestMax   *int64       `json:"oldest_max_ns"`
	Verdict     string       `json:"verdict"`
	Inherited   bool         `json:"inherited"`
	PoolLike    bool         `json:"pool_like"`
	FDUsed      *int         `json:"fd_used"`
	FDLimit     *uint64      `json:"fd_limit"`
	EMFILE      *int64       `json:"emfile_in_ns"`
	Unread      uint64       `json:"unread_bytes"`
	Peers       []peerJSON   `json:"peers"`
	Site        []frameJSON  `json:"site"`
	Sites       []siteJSON   `json:"sites"`
	Advice      []string     `json:"advice"`
	Sockets     []leakSocket `json:"sockets"`
}

type container struct {
	Runtime   *string `json:"runtime"`
	ID        string  `json:"id"`
	Name      *string `json:"name"`
	Pod       *string `json:"pod"`
	Namespace *string `json:"namespace"`
}

type peerJSON struct {
	Remote string `json:"remote"`
	Count  int    `json:"count"`
}

type leakSocket struct {
	FD         *int         `json:"fd"` // of the group's process
	Holders    []holderJSON `json:"holders"`
	NetNS      *uint32      `json:"netns"`
	Inode      *uint64      `json:"inode"`
	Local      *string      `json:"local"`
	Remote     *string      `json:"remote"`
	Cookie     *uint64      `json:"cookie"`
	Side       *string      `json:"side"`
	RecvQ      *uint32      `json:"recv_q"`
	SendQ      *uint32      `json:"send_q"`
	AgeMin     *int64       `json:"age_min_ns"`
	AgeMax     *int64       `json:"age_max_ns"`
	Age        *int64       `json:"age_ns"`
	AgeQuality string       `json:"age_quality"`
	Verdict    string       `json:"verdict"`
	Inferred   bool         `json:"inferred"`
	Inherited  bool         `json:"inherited"`
	Backlog    *backlogJSON `json:"backlog"`
	CarrierFD  *int         `json:"carrier_fd"`
	SiteIndex  *int         `json:"site_index"` // in sites
}

type holderJSON struct {
	PID  int    `json:"pid"`
	Comm string `json:"comm"`
	FD   int    `json:"fd"`
	Ring bool   `json:"io_uring"` // fd is the ring's, which has the socket registered
}

type backlogJSON struct {
	Listener string `json:"listener"`
	Waiting  uint32 `json:"waiting"`
	Size     uint32 `json:"size"`
}

// WriteLeaksJSON writes the report as one document on one line.
func WriteLeaksJSON(w io.Writer, r *leak.Report, foot LeakFoot, at time.Time) error {
	doc := leaksDocument{
		Time: at.UTC().Format(time.RFC3339Nano), State: r.State.String(), OlderThan: int64(r.OlderThan),
		Leaks: []leakGroup{}, Younger: r.Younger, Ignored: r.Ignored, UnclearFDs: r.Unclear,
		NetNS: foot.NetNS, Unreached: foot.Unreachable, Unreadable: foot.Unreadable,
		LastAck: foot.LastAck, Orphans: some(foot.Orphans, foot.Orphans >= 0), MaxOrphans: some(foot.MaxOrphans, foot.MaxOrphans > 0), Lost: foot.Lost, Advice: adviceJSON(foot.Advice),
	}
	for i := range r.Groups {
		doc.Leaks = append(doc.Leaks, groupJSON(&r.Groups[i]))
	}
	return json.NewEncoder(w).Encode(doc)
}

func groupJSON(g *leak.Group) leakGroup {
	v, _ := g.Verdict()
	out := leakGroup{
		Count: len(g.Leaks), DeadFDs: len(g.Dead), Growth: g.Growth.PerMinute, GrowthKnown: g.Growth.Known.String(),
		Verdict: v.String(), PoolLike: g.Pool, Unread: g.Unread, Advice: append([]string{}, nextSteps(g)...), Sockets: []leakSocket{}, Peers: []peerJSON{},
	}
	if p := g.Process; p != nil {
		out.PID, out.StartNS, out.PPID, out.Comm, out.Cmdline = &p.PID, some(int64(p.Start), true), &p.PPID, &p.Comm, append([]string{}, p.Cmdline...)
		out.UID, out.User, out.Unit = &p.UID, some(p.User, p.User != ""), some(p.Unit, p.Unit != "")
		out.FDUsed, out.FDLimit = some(p.FDs, p.FDs > 0), some(p.FDLimit, limited(p))
		out.Container = containerJSON(p.Container)
	}
	if in, ok := g.EMFILE(); ok {
		out.EMFILE = some(int64(in), true)
	}
	if len(g.Leaks) > 0 {
		out.OldestMin, out.OldestMax, out.Oldest = ageJSON(g.Oldest())
	}
	for _, p := range g.Peers {
		out.Peers = append(out.Peers, peerJSON{peerText(p.Remote), p.Count})
	}
	out.Site, out.Sites = placesJSON(g.Places)
	for i := range g.Leaks {
		out.Inherited = out.Inherited || g.Leaks[i].Inherited
		socket := socketJSON(&g.Leaks[i], g.Process)
		socket.SiteIndex = placeOf(g.Leaks[i].Site, g.Places)
		out.Sockets = append(out.Sockets, socket)
	}
	for _, s := range g.Dead {
		out.Sockets = append(out.Sockets, leakSocket{
			FD: &s.FD, Holders: holdersJSON([]owner.Holder{s.Holder}, false), Inode: &s.Inode, NetNS: some(s.NetNS, s.NetNS != 0),
			Local: some(s.Local.String(), s.Local.IsValid()), Remote: some(s.Remote.String(), s.Remote.IsValid()),
			AgeQuality: leak.Unknown.String(), Verdict: leak.DeadFD.String(), SiteIndex: placeOf(s.Site, g.Places),
		})
	}
	return out
}

func socketJSON(l *leak.Leak, of *owner.Process) leakSocket {
	out := leakSocket{
		Holders: append(holdersJSON(l.Holders, false), holdersJSON(l.Fixed, true)...),
		NetNS:   &l.NetNS, Inode: some(l.Inode, l.Inode != 0), Cookie: &l.Cookie, RecvQ: &l.RecvQ, SendQ: &l.SendQ,
		Local: some(l.Tuple.Local.String(), true), Remote: some(l.Tuple.Remote.String(), true),
		Side: some(sideWords[l.Side], sideWords[l.Side] != ""), AgeQuality: l.Age.Quality.String(),
		Verdict: l.Verdict.String(), Inferred: l.Inferred, Inherited: l.Inherited,
	}
	out.AgeMin, out.AgeMax, out.Age = ageJSON(l.Age)
	for _, h := range l.Holders {
		if same(h.Process, of) {
			out.FD = &h.FD
			break
		}
	}
	if l.Carrier != nil {
		out.CarrierFD = &l.Carrier.FD
	}
	if li := l.Listener; li != nil && l.Verdict == leak.NotAccepted {
		out.Backlog = &backlogJSON{li.Tuple.Local.String(), li.RecvQ, li.SendQ}
	}
	return out
}

func containerJSON(c owner.Container) *container {
	if c == (owner.Container{}) {
		return nil
	}
	return &container{some(c.Runtime, c.Runtime != ""), c.ID, some(c.Name, c.Name != ""), some(c.Pod, c.Pod != ""), some(c.Namespace, c.Namespace != "")}
}

func holdersJSON(holders []owner.Holder, ring bool) []holderJSON {
	out := []holderJSON{}
	for _, h := range holders {
		out = append(out, holderJSON{h.Process.PID, h.Process.Comm, h.FD, ring})
	}
	return out
}

// ageJSON: exact ages are a number, others two.
func ageJSON(a leak.Age) (least, most, exact *int64) {
	if a.Quality == leak.Unknown {
		return nil, nil, nil
	}
	return some(int64(a.Min), true), some(int64(a.Max), true), some(int64(a.Max+a.Min)/2, a.Quality == leak.Exact)
}

// some gives a pointer to v, nil (null) if it is not known.
func some[V any](v V, known bool) *V {
	if !known {
		return nil
	}
	return &v
}
