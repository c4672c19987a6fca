<?php
$db = new mysqli("db", "app", "secret", "app");
$db->query("insert into visits values (null)");
$row = $db->query("select count(*) from visits")->fetch_row();
echo "host ", $_SERVER["HTTP_HOST"], " visits ", $row[0], "\n";
