set -e
export PATH=/usr/lib/postgresql/15/bin:$PATH
sleep 2
mkdir -p /data /var/run/postgresql
chown postgres /data /var/run/postgresql
setpriv --reuid=postgres --regid=postgres --clear-groups initdb -A trust -D /data >/dev/null
echo "host all all 0.0.0.0/0 trust" >>/data/pg_hba.conf
exec setpriv --reuid=postgres --regid=postgres --clear-groups postgres -D /data -c listen_addresses='*'
