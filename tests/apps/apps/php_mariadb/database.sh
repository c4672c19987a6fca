set -e
mkdir -p /run/mysqld /data
chown mysql /run/mysqld /data
mariadb-install-db --user=mysql --datadir=/data --skip-test-db >/dev/null 2>&1
cat >/tmp/init.sql <<SQL
create database app;
create table app.visits (id int auto_increment primary key);
create user app@'%' identified by 'secret';
grant all on app.* to app@'%';
SQL
chmod 644 /tmp/init.sql
exec mariadbd --no-defaults --user=mysql --datadir=/data --bind-address=0.0.0.0 --init-file=/tmp/init.sql
