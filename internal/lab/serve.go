// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/gob"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// init keeps an actor's main goroutine on the main thread, the thread-group
// leader; later than in an init function Go cannot do that.
func init() {
	if os.Getenv(actorEnv) != "" {
		runtime.LockOSThread()
	}
}

// Main is called first in main, or in a test's TestMain, of every program that
// starts actors. In a process that was started as an actor it does not return;
// else it does nothing.
func Main() {
	if os.Getenv(actorEnv) == "" {
		return
	}
	leader := make(chan request, queue)
	s := &server{
		out:     gob.NewEncoder(os.NewFile(commandFD, "commands")),
		threads: map[string]chan request{"": leader},
	}
	err := s.prepare(os.Args[0])
	s.reply(failed(response{Value: unix.Getpid()}, err))
	if err != nil {
		os.Exit(1)
	}
	go s.receive()
	s.work(leader)
}

// queue is how many requests may wait for a busy thread. More would keep the
// actor from seeing that its script has ended.
const queue = 64

// server is an actor from inside. Each of its threads does one request at a
// time.
type server struct {
	outMu sync.Mutex
	out   *gob.Encoder

	threads map[string]chan request // only receive uses it after the start

	children sync.Map // pid → chan unix.WaitStatus

	listener net.Listener // these two: only the leader
	conn     net.Conn
}

// prepare is done by the leader before any request.
func (s *server) prepare(name string) error {
	if unix.Gettid() != unix.Getpid() {
		return errors.New("lab.Main is not called from the main goroutine")
	}
	// Inherited descriptors are not close-on-exec yet.
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd >= commandFD {
			unix.CloseOnExec(fd)
		}
	}
	// Whoever writes it, this file is the leader's name.
	return os.WriteFile("/proc/self/comm", []byte(name), 0)
}

// receive hands requests to their threads. When the script closes its end, or
// has died, the actor ends, whatever its threads wait for.
func (s *server) receive() {
	in := gob.NewDecoder(os.NewFile(commandFD, "commands"))
	for {
		var r request
		if err := in.Decode(&r); err != nil {
			os.Exit(0)
		}
		switch r.Op {
		case opThread:
			s.startThread(r)
		case opReap:
			go s.reap(r)
		default:
			s.threads[r.Thread] <- r
		}
	}
}

func (s *server) reply(res response) {
	s.outMu.Lock()
	defer s.outMu.Unlock()
	if err := s.out.Encode(res); err != nil {
		os.Exit(0) // the script is gone
	}
}

// work does what the requests to the calling thread ask for.
func (s *server) work(requests <-chan request) {
	for r := range requests {
		s.reply(s.do(r))
	}
}

// startThread makes a thread of the request's name and answers with its tid.
func (s *server) startThread(r request) {
	requests := make(chan request, queue)
	s.threads[r.Thread] = requests
	go func() {
		runtime.LockOSThread()
		err := os.WriteFile("/proc/thread-self/comm", []byte(r.Thread), 0)
		s.reply(failed(response{ID: r.ID, Value: unix.Gettid()}, err))
		s.work(requests)
	}()
}

// do carries one request out and takes the time.
func (s *server) do(r request) response {
	res := response{ID: r.ID}
	call := s.call(r, &res)
	var err error
	res.Before, res.Ticked = Mono(), Ticked()
	res.Value, err = call()
	res.After = Mono()
	return failed(res, err)
}

// failed puts err into res.
func failed(res response, err error) response {
	var errno unix.Errno
	switch {
	case errors.As(err, &errno):
		res.Errno = errno
	case err != nil:
		res.Text = err.Error()
	}
	return res
}

// spawn starts a child actor. Its two links are in Args; they are closed here
// then, so that the child alone has them.
func (s *server) spawn(r request) (int, error) {
	l := links{r.Args[0], r.Args[1]}
	defer l.close()
	// It may outlive this process, so it has no Pdeathsig; it ends when the
	// script does, by the end of its commands.
	pid, err := forkActor(r.Name, l, r.FDs, nil)
	if err != nil {
		return 0, err
	}
	ended := make(chan unix.WaitStatus, 1)
	s.children.Store(pid, ended)
	go func() {
		status, _ := waitFor(pid)
		ended <- status
	}()
	return pid, nil
}

// reap answers with the wait status of a child, when that has ended.
func (s *server) reap(r request) {
	pid := r.Args[0]
	ended, ok := s.children.LoadAndDelete(pid)
	if !ok {
		s.reply(response{ID: r.ID, Errno: unix.ECHILD})
		return
	}
	status := <-ended.(chan unix.WaitStatus)
	s.reply(response{ID: r.ID, Value: int(status)})
}

// waitFor waits for the end of a child of this process.
func waitFor(pid int) (unix.WaitStatus, error) {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if err != unix.EINTR {
			return status, err
		}
	}
}

// spin burns CPU, in user space and in system calls, until the actor is killed.
// At the lowest priority it takes what others leave: no CPU is ever idle, and
// whoever has something to do still gets to it.
func spin() {
	unix.Setpriority(unix.PRIO_PROCESS, 0, 19) // of this thread; less needs no privilege
	for {
		for range 1000 {
		}
		unix.Getppid()
	}
}

// netListen opens a listener as a Go server does: MPTCP where the kernel has it.
func (s *server) netListen(r request, res *response) (int, error) {
	if s.listener != nil {
		return -1, errors.New("a listener is open already")
	}
	l, err := net.Listen("tcp", r.Addr.String())
	if err != nil {
		return -1, err
	}
	s.listener = l
	res.Addr = l.Addr().(*net.TCPAddr).AddrPort()
	return fdOf(l.(*net.TCPListener))
}

func (s *server) netAccept(res *response) (int, error) {
	if s.listener == nil || s.conn != nil {
		return -1, errors.New("no listener, or a connection is held already")
	}
	conn, err := s.listener.Accept()
	if err != nil {
		return -1, err
	}
	s.conn = conn
	res.Addr = unmap(conn.RemoteAddr().(*net.TCPAddr).AddrPort())
	return fdOf(conn.(*net.TCPConn))
}

func (s *server) netCloseConn() error {
	if s.conn == nil {
		return errors.New("no connection is held")
	}
	err := s.conn.Close()
	s.conn = nil
	return err
}

func (s *server) netCloseListener() error {
	if s.listener == nil {
		return errors.New("no listener is open")
	}
	err := s.listener.Close()
	s.listener = nil
	return err
}

// fdOf gives the number of c's descriptor, which stays c's.
func fdOf(c syscall.Conn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	number := -1
	err = raw.Control(func(fd uintptr) { number = int(fd) })
	if err != nil {
		return -1, fmt.Errorf("get the descriptor: %w", err)
	}
	return number, nil
}
