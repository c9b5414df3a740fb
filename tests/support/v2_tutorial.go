// The client of a published tutorial on the REST Proxy v2 API: the standard library and Go's default headers, nothing
// else, and no second try. Its two programs, one after the other: go run v2_tutorial.go URL TOPIC
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
)

const (
	contentType = "application/vnd.kafka.json.v2+json"
	group       = "testGroup"
	consumer    = "testConsumer"
)

type user struct {
	Name  string `json:"name"`
	Email string `json:"email"`
}

type record struct {
	Value user `json:"value"`
}

type records struct {
	Records []record `json:"records"`
}

type produced struct {
	Offsets []struct {
		Partition int     `json:"partition"`
		Offset    int64   `json:"offset"`
		ErrorCode *int    `json:"error_code"`
		Error     *string `json:"error"`
	} `json:"offsets"`
}

type instance struct {
	InstanceID string `json:"instance_id"`
	BaseURI    string `json:"base_uri"`
}

type consumed struct {
	Topic     string  `json:"topic"`
	Key       *string `json:"key"`
	Value     user    `json:"value"`
	Partition int     `json:"partition"`
	Offset    int64   `json:"offset"`
}

type position struct {
	Topic     string `json:"topic"`
	Partition int    `json:"partition"`
	Offset    int64  `json:"offset"`
}

// call sends one request and ends the program unless the answer has that status.
func call(method, url string, body any, status int, into any) {
	var reader io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			log.Fatal(err)
		}
		reader = bytes.NewReader(encoded)
	}
	request, err := http.NewRequest(method, url, reader)
	if err != nil {
		log.Fatal(err)
	}
	if method == http.MethodGet {
		request.Header.Set("Accept", contentType)
	} else {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		log.Fatal(err)
	}
	if response.StatusCode != status {
		log.Fatalf("%s %s: %s %s", method, url, response.Status, answer)
	}
	if into != nil {
		if err := json.Unmarshal(answer, into); err != nil {
			log.Fatal(err)
		}
	}
}

func produce(url, topic string) {
	message := records{[]record{
		{user{"John", "john@gmail.com"}},
		{user{"Mary", "mary@email.com"}},
	}}
	var answer produced
	call("POST", url+"/topics/"+topic+"/partitions/0", message, http.StatusOK, &answer)
	for _, each := range answer.Offsets {
		if each.ErrorCode != nil {
			log.Fatal(*each.Error)
		}
		fmt.Printf("produced %d %d\n", each.Partition, each.Offset)
	}
}

func consume(url, topic string) {
	var made instance
	call("POST", url+"/consumers/"+group, map[string]string{"name": consumer, "format": "json"}, http.StatusOK, &made)
	fmt.Printf("instance %s\n", made.InstanceID)
	call("POST", made.BaseURI+"/subscription", map[string][]string{"topics": {topic}}, http.StatusNoContent, nil)
	var page []consumed
	call("GET", made.BaseURI+"/records", nil, http.StatusOK, &page)
	for _, each := range page {
		fmt.Printf("consumed %s %d %d %s %s\n", each.Topic, each.Partition, each.Offset, each.Value.Name, each.Value.Email)
		next := []position{{each.Topic, each.Partition, each.Offset + 1}}
		call("POST", made.BaseURI+"/positions", map[string][]position{"offsets": next}, http.StatusNoContent, nil)
	}
	call("POST", made.BaseURI, nil, http.StatusNoContent, nil) // as the tutorial's text has it, in place of DELETE
	fmt.Println("deleted")
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: go run v2_tutorial.go URL TOPIC")
	}
	produce(os.Args[1], os.Args[2])
	consume(os.Args[1], os.Args[2])
}
