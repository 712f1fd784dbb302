// Drives etcd by its own client: durable puts of 100 bytes, or linearizable gets, by callers that each wait for their answer.
//
//	etcd-client put|get ADDRESS CALLERS CONNECTIONS SECONDS
//
// On Debian: apt-get install golang-go golang-etcd-server-dev, then
// GO111MODULE=off GOPATH=/usr/share/gocode go build -o etcd-client main.go
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"sort"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/etcd/clientv3"
)

const (
	keys       = 100_000
	valueBytes = 100
)

type found struct {
	Rate   int     `json:"rate"`
	P50    float64 `json:"p50_ms"`
	P99    float64 `json:"p99_ms"`
	Errors int     `json:"errors"`
}

func number(argument int) int {
	value, err := strconv.Atoi(os.Args[argument])
	if err != nil || value < 1 {
		fmt.Fprintf(os.Stderr, "%q is not a number\n", os.Args[argument])
		os.Exit(2)
	}
	return value
}

func main() {
	if len(os.Args) != 6 {
		fmt.Fprintln(os.Stderr, "usage: etcd-client put|get ADDRESS CALLERS CONNECTIONS SECONDS")
		os.Exit(2)
	}
	what, callers, connections, seconds := os.Args[1], number(3), number(4), number(5)
	clients := make([]*clientv3.Client, connections)
	for at := range clients {
		client, err := clientv3.New(clientv3.Config{Endpoints: []string{os.Args[2]}, DialTimeout: 10 * time.Second})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		clients[at] = client
	}
	value := string(bytes.Repeat([]byte("v"), valueBytes))
	call := func(client *clientv3.Client, key string) error {
		if what == "get" {
			_, err := client.Get(context.Background(), key)
			return err
		}
		_, err := client.Put(context.Background(), key, value)
		return err
	}

	latencies, errors := make([][]time.Duration, callers), make([]int, callers)
	var running sync.WaitGroup
	begun := time.Now()
	end := begun.Add(time.Duration(seconds) * time.Second)
	for caller := 0; caller < callers; caller++ {
		running.Add(1)
		go func(caller int) {
			defer running.Done()
			client, chance := clients[caller%connections], rand.New(rand.NewSource(int64(caller)))
			for {
				since := time.Now()
				if since.After(end) {
					return
				}
				if call(client, fmt.Sprintf("key-%012d", chance.Intn(keys))) != nil {
					errors[caller]++
					continue
				}
				latencies[caller] = append(latencies[caller], time.Since(since))
			}
		}(caller)
	}
	running.Wait()
	took := time.Since(begun)

	all, failed := []time.Duration{}, 0
	for caller := range latencies {
		all = append(all, latencies[caller]...)
		failed += errors[caller]
	}
	if len(all) == 0 {
		fmt.Fprintln(os.Stderr, "no call was answered")
		os.Exit(1)
	}
	sort.Slice(all, func(one, other int) bool { return all[one] < all[other] })
	millis := func(part float64) float64 {
		return all[int(part*float64(len(all)-1))].Seconds() * 1e3
	}
	json.NewEncoder(os.Stdout).Encode(found{int(float64(len(all)) / took.Seconds()), millis(0.5), millis(0.99), failed})
}
