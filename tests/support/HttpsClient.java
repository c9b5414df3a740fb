// Publishes, reads and follows a stream over HTTPS: java HttpsClient.java URL CA.PEM CLIENT.P12
// It presents the certificate in CLIENT.P12, and prints what it reads.

import java.io.FileInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class HttpsClient {
    static final char[] PASSWORD = "password".toCharArray();

    public static void main(String[] arguments) throws Exception {
        var client = HttpClient.newBuilder().sslContext(context(arguments[1], arguments[2])).build();
        var url = arguments[0];
        for (int number = 0; number < 20; number++) {
            var publish = HttpRequest.newBuilder(URI.create(url))
                .header("Content-Type", "text/plain").PUT(HttpRequest.BodyPublishers.ofString("message " + number));
            var answer = client.send(publish.build(), BodyHandlers.ofString());
            if (answer.statusCode() != 200) throw new IllegalStateException(answer.body());
        }
        var page = client.send(HttpRequest.newBuilder(URI.create(url + "/java/earliest")).build(), BodyHandlers.ofString());
        System.out.println(page.body());
        var stream = HttpRequest.newBuilder(URI.create(url + "/java/earliest?limit=20")).header("Accept", "application/x-ndjson");
        client.send(stream.build(), BodyHandlers.ofLines()).body().forEach(System.out::println);
    }

    static SSLContext context(String authority, String certificate) throws Exception {
        var trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null);
        try (var file = new FileInputStream(authority)) {
            trusted.setCertificateEntry("authority", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        var trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(trusted);
        var own = KeyStore.getInstance("PKCS12");
        try (var file = new FileInputStream(certificate)) {
            own.load(file, PASSWORD);
        }
        var keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        keys.init(own, PASSWORD);
        var context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        return context;
    }
}
