// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/specimen"
)

// specimenBuild is the folder that specimens builds in, once.
var specimenBuild struct {
	sync.Once
	dir string
	err error
}

// withSpecimens removes at the end what specimens has built for the tests.
type withSpecimens struct{ *testing.M }

func (m withSpecimens) Run() int {
	defer func() {
		if dir := specimenBuild.dir; dir != "" {
			os.RemoveAll(dir)
		}
	}()
	return m.M.Run()
}

// specimens gives the folder of the C programs. A guest has them, and no compiler.
func specimens(t *testing.T) (dir string) {
	t.Helper()
	if dir := os.Getenv(specimenDir); dir != "" {
		return dir
	}
	b := &specimenBuild
	b.Do(func() {
		if b.dir, b.err = os.MkdirTemp("", "afterfin-specimen-"); b.err == nil {
			b.err = specimen.Build(b.dir, runtime.GOARCH)
		}
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
	return b.dir
}

// startSpecimen runs a C program in a netns until the test ends.
func startSpecimen(t *testing.T, ns *lab.NetNS, name string, args ...string) *specimen.Process {
	t.Helper()
	program := filepath.Join(specimens(t), name)
	var p *specimen.Process
	err := ns.Do(func() (err error) {
		p, err = specimen.Start(program, args...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("%s ends with %v", name, err)
		}
	})
	return p
}

// TestSpecimenRuns: the C programs run here, and connect to where they are told.
func TestSpecimenRuns(t *testing.T) {
	for _, name := range specimen.Programs() {
		t.Run(name, func(t *testing.T) {
			s := &scene{T: t, begin: lab.Mono(), ns: newNetNS(t), family: families[0], sock: make(map[uint64]*expected)}
			server := s.actor("server")
			listener := s.fd(server.Socket(unix.AF_INET))
			s.step(server.Bind(listener, s.family.address))
			s.step(server.Listen(listener, 8))
			at := s.addr(server.LocalAddr(listener))
			p := startSpecimen(t, s.ns, name, "connect", at.Addr().String(), fmt.Sprint(at.Port()))
			port, fd, err := p.Open()
			s.must(err)
			accepted := s.fd(server.Accept(listener))
			if peer := s.addr(server.RemoteAddr(accepted)); int(peer.Port()) != port {
				t.Errorf("%s says that it has port %d, and it has %d", name, port, peer.Port())
			}
			if _, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", p.PID(), fd)); err != nil {
				t.Errorf("its descriptor: %v", err)
			}
		})
	}
}
