// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// asCommand as the first argument makes the test binary perform the steps that follow,
// as the command that assert runs.
const asCommand = "perform"

// performer is such a command: what it has done is the truth that assert must find.
type performer struct {
	steps    []string // still to do
	listener net.Listener
	waiting  net.Conn // in CLOSE_WAIT
}

// perform gives the exit code.
func perform(steps []string) int {
	p := &performer{steps: steps}
	for len(p.steps) > 0 {
		step, argument, _ := strings.Cut(p.steps[0], ":")
		p.steps = p.steps[1:]
		switch step {
		case "exit":
			code, err := strconv.Atoi(argument)
			must(err)
			return code
		case "child": // the rest is done by a child
			return p.rest(nil).wait()
		case "daemon": // the rest is done by an orphan, whose end is awaited
			out, in, err := os.Pipe()
			must(err)
			middle := p.rest(in, "detach")
			in.Close()
			if middle.wait() != 0 {
				panic("detach failed")
			}
			_, err = io.ReadAll(out) // until nobody holds the other end
			must(err)
			return 0
		case "detach": // the rest is done by a child that nobody waits for
			p.rest(os.NewFile(3, "held to the end"))
			return 0
		case "abandon": // so it is here, for as long as this
			if p.rest(nil, "detach").wait() != 0 {
				panic("detach failed")
			}
			p.do("hold", argument)
			return 0
		case "pass": // the rest is done by a child that has the socket, as only one
			file, err := p.waiting.(*net.TCPConn).File()
			must(err)
			child := p.rest(file)
			file.Close()
			must(p.waiting.Close())
			return child.wait()
		default:
			p.do(step, argument)
		}
	}
	return 0
}

func (p *performer) do(step, argument string) {
	switch step {
	case "leak", "queue": // the peer closes, and so CLOSE_WAIT begins
		var err error
		p.listener, err = net.Listen("tcp4", "127.0.0.1:0")
		must(err)
		peer, err := net.Dial("tcp4", p.listener.Addr().String())
		must(err)
		if step == "leak" {
			p.waiting, err = p.listener.Accept()
			must(err)
		}
		must(peer.Close())
	case "close":
		must(p.waiting.Close())
	case "hold":
		d, err := time.ParseDuration(argument)
		must(err)
		time.Sleep(d)
	case "say":
		fmt.Println(argument)
	case "await": // the end of stdin
		_, err := io.ReadAll(os.Stdin)
		must(err)
	case "kill":
		must(syscall.Kill(os.Getpid(), syscall.SIGKILL))
		select {}
	case "signals": // says which come, until SIGTERM
		in := make(chan os.Signal, 8)
		signal.Notify(in, syscall.SIGINT, syscall.SIGTERM)
		fmt.Println("ready")
		for s := range in {
			fmt.Println(s)
			if s == syscall.SIGTERM {
				return
			}
		}
	case "timewait": // leaves that many
		n, err := strconv.Atoi(argument)
		must(err)
		p.leaveTimeWait(n)
	default:
		panic("no such step: " + step)
	}
}

func (p *performer) leaveTimeWait(n int) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(err)
	for range n {
		c, err := net.Dial("tcp4", l.Addr().String())
		must(err)
		a, err := l.Accept()
		must(err)
		must(c.Close())
		_, err = io.ReadAll(a) // its FIN is here
		must(err)
		must(a.Close())
	}
}

// performing is a process that does the rest of the steps.
type performing struct{ *exec.Cmd }

// rest starts it, with those of now before them; file is its descriptor 3.
func (p *performer) rest(file *os.File, first ...string) performing {
	cmd := exec.Command("/proc/self/exe", append(append([]string{asCommand}, first...), p.steps...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if file != nil {
		cmd.ExtraFiles = []*os.File{file}
	}
	must(cmd.Start())
	return performing{cmd}
}

func (p performing) wait() int {
	_ = p.Wait() // the code says it
	return p.ProcessState.ExitCode()
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
