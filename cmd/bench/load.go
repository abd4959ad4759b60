// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
)

const (
	loadThreads = 2
	// portRoom is how many connections one port of the server takes: there are 28,232 to
	// connect from, and each stays in TIME_WAIT.
	portRoom = 20_000
)

// plan is what a load is to do.
type plan struct {
	Kind        string // key of kinds
	IPv6        bool
	Connections int
	Rate        int // connections a second; 0: as fast as two threads can
}

// loaded is what it has done.
type loaded struct {
	Connections int
	Listeners   int
	Wall        time.Duration
	CPU         time.Duration // of all its threads, with the softirqs that ran on top of them
}

// load is a process that makes connections in a netns of its own.
type load struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *json.Decoder
	netns string // a path to it
}

// startLoad makes the process and its netns. It begins with run.
func startLoad(p plan) (*load, error) {
	l := &load{cmd: exec.Command("/proc/self/exe", "load", p.Kind, strconv.FormatBool(p.IPv6), strconv.Itoa(p.Connections), strconv.Itoa(p.Rate))}
	l.cmd.Stderr = os.Stderr
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if l.stdin, err = l.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := l.cmd.Start(); err != nil {
		return nil, err
	}
	l.out = json.NewDecoder(out)
	if err := l.out.Decode(&l.netns); err != nil {
		l.kill()
		return nil, fmt.Errorf("the load: %w", err)
	}
	return l, nil
}

// run makes the connections. The netns stays until end: taking it down is work for tracers,
// too, and not to be measured.
func (l *load) run() (done loaded, err error) {
	if _, err = fmt.Fprintln(l.stdin); err == nil {
		err = l.out.Decode(&done)
	}
	if err != nil {
		return done, fmt.Errorf("the load: %w", err)
	}
	return done, nil
}

func (l *load) end() error {
	l.stdin.Close()
	return l.cmd.Wait()
}

// kill ends it as a crash would, with all that it holds.
func (l *load) kill() {
	_ = l.cmd.Process.Kill() // or it is gone
	_ = l.cmd.Wait()
}

// loadProcess is that process: args are those of startLoad.
func loadProcess(args []string) error {
	p, err := parsePlan(args)
	if err != nil {
		return err
	}
	ns, err := lab.NewNetNS()
	if err != nil {
		return err
	}
	defer ns.Close()
	// As on a host: the kernel decides when it acknowledges. And room for every TIME_WAIT, and
	// a congestion control that every kernel has.
	if err := ns.SetQuickACK(false); err != nil {
		return err
	}
	for name, value := range map[string]string{"tcp_max_tw_buckets": "1000000", "tcp_congestion_control": "reno"} {
		if err := ns.SetSysctl("net.ipv4."+name, value); err != nil {
			return err
		}
	}
	out, in := json.NewEncoder(os.Stdout), bufio.NewReader(os.Stdin)
	if err := out.Encode(ns.Path()); err != nil {
		return err
	}
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	done, err := p.run(ns)
	if err != nil {
		return err
	}
	if err := out.Encode(done); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

func parsePlan(args []string) (p plan, err error) {
	if len(args) != 4 || kinds[args[0]].end == nil {
		return p, errors.New("load KIND IPV6 CONNECTIONS RATE")
	}
	p.Kind = args[0]
	if p.IPv6, err = strconv.ParseBool(args[1]); err != nil {
		return p, err
	}
	if p.Connections, err = strconv.Atoi(args[2]); err != nil {
		return p, err
	}
	p.Rate, err = strconv.Atoi(args[3])
	return p, err
}

func (p plan) run(ns *lab.NetNS) (done loaded, err error) {
	each := p.Connections / loadThreads
	errs := make([]error, loadThreads)
	var group sync.WaitGroup
	begin, cpu := time.Now(), ownCPU()
	for i := range loadThreads {
		group.Go(func() { errs[i] = ns.Do(func() error { return p.exchanges(each) }) })
	}
	group.Wait()
	done = loaded{
		Connections: each * loadThreads, Listeners: p.ports(each) * loadThreads,
		Wall: time.Since(begin), CPU: ownCPU() - cpu,
	}
	return done, errors.Join(errs...)
}

func (p plan) ports(connections int) int { return connections/portRoom + 1 }

// exchanges makes n connections, one after the other, with a byte in each direction.
func (p plan) exchanges(n int) error {
	var servers []*server
	for range p.ports(n) {
		s, err := newServer(p.IPv6)
		if err != nil {
			return err
		}
		servers = append(servers, s)
	}
	begin, end := time.Now(), kinds[p.Kind].end
	for i := range n {
		if p.Rate > 0 {
			time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Second * loadThreads / time.Duration(p.Rate))))
		}
		c, err := servers[i%len(servers)].exchange()
		if err == nil {
			err = end(c)
		}
		if err != nil {
			return fmt.Errorf("connection %d: %w", i+1, err)
		}
	}
	return nil
}

// ownCPU is what this process has used, in ns, whatever the tick.
func ownCPU() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		panic(err) // every kernel has this clock
	}
	return time.Duration(t.Nano())
}
