#!/bin/sh
# A VM for a port with role = "server": the switch makes the socket, QEMU connects to it, and tries
# again each second when the switch is away. Usage: qemu-role-server.sh DISK
#
# Memory is shared with the switch (share=on). The machine waits for the switch before it boots.
exec qemu-system-x86_64 -name vm-1 -accel kvm -cpu host -smp 2 -m 1G \
    -object memory-backend-memfd,id=memory,size=1G,share=on \
    -machine q35,memory-backend=memory \
    -chardev socket,id=net0,path=/run/vhost/vm-1.sock,reconnect=1 \
    -netdev type=vhost-user,id=net0,chardev=net0,queues=2 \
    -device virtio-net-pci,netdev=net0,mac=02:00:00:00:00:10,mq=on,vectors=6,rx_queue_size=1024,tx_queue_size=1024 \
    -drive file="$1",if=virtio \
    -nographic
