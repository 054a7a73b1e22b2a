//! The writer as a program: installed as `/etc/holdfast/writers/guestbook`, any requester finds it there.

holdfast_writer_api::program!(guestbook_writer::GUESTBOOK);
