module dcf

go 1.19
