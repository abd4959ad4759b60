// SPDX-License-Identifier: Apache-2.0

package sockdiag

import (
	"errors"
	"io/fs"
	"maps"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"afterfin/internal/clock"
	"afterfin/internal/event"
	"afterfin/internal/tcp"
)

type sockets map[uint64]event.Existing

func only(states ...tcp.State) (set tcp.StateSet) {
	for _, s := range states {
		set.Add(s)
	}
	return set
}

// dump gives all sockets of the test's netns by cookie, without the times and
// the netns, which it checks.
func dump(t testing.TB, inode uint32, states tcp.StateSet) sockets {
	t.Helper()
	got := sockets{}
	start := clock.Mono()
	err := Dump(states, func(e *event.Existing) {
		if now := clock.Mono(); e.After < start || e.Before < e.After || e.Before > now {
			t.Errorf("written between %v and %v, in a dump from %v to %v", e.After, e.Before, start, now)
		}
		if e.NetNS != inode {
			t.Errorf("netns %d, want %d", e.NetNS, inode)
		}
		if before, twice := got[e.Cookie]; twice {
			t.Errorf("%+v after %+v", *e, before)
		}
		got[e.Cookie] = event.Existing{Cookie: e.Cookie, Inode: e.Inode, Tuple: e.Tuple, State: e.State}
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// expect dumps until these sockets are there and no others: the far end of a
// connection learns what happened a little later.
func expect(t testing.TB, inode uint32, states tcp.StateSet, want ...event.Existing) {
	t.Helper()
	all := sockets{}
	for _, e := range want {
		all[e.Cookie] = e
	}
	var got sockets
	for range 500 {
		if got = dump(t, inode, states); maps.Equal(got, all) {
			return
		}
	}
	t.Errorf("states %b: got\n%+v, want\n%+v", states, got, all)
}

// One connection from beginning to end, over each way to address it.
func TestDumpLife(t *testing.T) {
	for _, c := range []struct{ name, bound, dialled string }{
		{"ipv4", "127.0.0.1", "127.0.0.1"},
		{"ipv6", "::1", "::1"},
		{"v4-mapped", "::", "::ffff:127.0.0.1"},
		{"ipv4 to dual-stack", "::", "127.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inode := fresh(t)
			expect(t, inode, 0)
			l := listen(t, c.bound)
			listener := l.seen(tcp.Listen)
			expect(t, inode, 0, listener)

			client := l.dial(c.dialled)
			server := l.accept()
			expect(t, inode, 0, listener, client.seen(tcp.Established), server.seen(tcp.Established))

			client.finish()
			expect(t, inode, 0, listener, client.seen(tcp.FinWait2), server.seen(tcp.CloseWait))
			expect(t, inode, only(tcp.Listen), listener)
			expect(t, inode, only(tcp.CloseWait), server.seen(tcp.CloseWait))
			expect(t, inode, only(tcp.TimeWait, tcp.LastAck))

			// The kernel moves the closed client to a mini-socket: same cookie, no file.
			gone := client.seen(tcp.FinWait2)
			client.close()
			expect(t, inode, 0, listener, orphan(gone, tcp.FinWait2), server.seen(tcp.CloseWait))
			expect(t, inode, only(tcp.FinWait2), orphan(gone, tcp.FinWait2))
			expect(t, inode, only(tcp.TimeWait))

			server.close()
			expect(t, inode, 0, listener, orphan(gone, tcp.TimeWait))
			expect(t, inode, only(tcp.TimeWait), orphan(gone, tcp.TimeWait))
			l.close()
			expect(t, inode, 0, orphan(gone, tcp.TimeWait))
		})
	}
}

// A connection that nobody has accepted has no file, but already the cookie
// that it will be known by.
func TestDumpNeverAccepted(t *testing.T) {
	inode := fresh(t)
	l := listen(t, "::")
	client := l.dial("127.0.0.1")
	want := event.Existing{State: tcp.Established, Tuple: peer(client.seen(tcp.Established))}
	got := waiting(t, inode, only(tcp.Established), client)
	server := l.accept().seen(tcp.Established)
	if want.Cookie = server.Cookie; got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	expect(t, inode, 0, l.seen(tcp.Listen), client.seen(tcp.Established), server)
}

// waiting gives the one socket beside the client's.
func waiting(t *testing.T, inode uint32, states tcp.StateSet, client *sock) event.Existing {
	t.Helper()
	for range 500 {
		got := dump(t, inode, states)
		delete(got, client.seen(0).Cookie)
		if len(got) == 1 {
			for _, e := range got {
				return e
			}
		}
	}
	t.Fatal("no such socket")
	return event.Existing{}
}

// A request socket counts as SYN_RECV. Here the listener defers: the connection
// is a request until data comes.
func TestDumpRequest(t *testing.T) {
	for _, c := range []struct{ name, bound, dialled string }{
		{"ipv4", "127.0.0.1", "127.0.0.1"},
		{"ipv6", "::1", "::1"},
		{"ipv4 to dual-stack", "::", "127.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inode := fresh(t)
			l := listen(t, c.bound)
			if err := unix.SetsockoptInt(l.fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 60); err != nil {
				t.Fatal(err)
			}
			client := l.dial(c.dialled)
			want := event.Existing{State: tcp.SynRecv, Tuple: peer(client.seen(tcp.Established))}
			for _, set := range []tcp.StateSet{only(tcp.SynRecv), only(tcp.NewSynRecv)} {
				got := waiting(t, inode, set, client)
				if want.Cookie = got.Cookie; got != want {
					t.Errorf("states %b: %+v, want %+v", set, got, want)
				}
			}
			expect(t, inode, 0, l.seen(tcp.Listen), client.seen(tcp.Established), want)

			if _, err := unix.Write(client.fd, []byte("x")); err != nil {
				t.Fatal(err)
			}
			if server := l.accept().seen(tcp.Established); server.Cookie != want.Cookie || server.Tuple != want.Tuple {
				t.Errorf("the request %+v became %+v", want, server)
			}
		})
	}
}

// Kernels before 6.8 do not list a socket that is only bound.
func TestDumpBoundOnly(t *testing.T) {
	inode := fresh(t)
	want := bind(t, "127.0.0.1").seen(tcp.Close)
	for _, states := range []tcp.StateSet{0, only(tcp.Close)} {
		if got := dump(t, inode, states); len(got) > 0 && !maps.Equal(got, sockets{want.Cookie: want}) {
			t.Errorf("states %b: %+v, want %+v", states, got, want)
		}
	}
}

// A protocol that inet_diag has no module for stands for TCP without tcp_diag.
func TestNoInetDiag(t *testing.T) {
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	d := dumper{conn: conn, raw: raw, buf: make([]byte, batchSize)}
	request := encode(unix.AF_INET, stateBits(0), false)
	request[1] = unix.IPPROTO_AH
	err = explain(d.dump(request, func(e *event.Existing) { t.Errorf("socket %+v", *e) }))
	if !errors.Is(err, ErrNoInetDiag) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want %v", err, ErrNoInetDiag)
	}
}
