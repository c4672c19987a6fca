set -e
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=site.test \
  -keyout /tmp/key.pem -out /tmp/certificate.pem 2>/dev/null
exec nginx -g 'daemon off;' -c /app/nginx.conf
