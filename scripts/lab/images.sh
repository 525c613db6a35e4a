lab_images() { :; }
